"""The words on the notebook's buttons, in both languages; what practice itself says stands in ``phrases``."""

LABELS: dict[str, dict[str, str]] = {
    "cards": {"en": "Cards", "zh": "卡片"},
    "interview": {"en": "Mock interview", "zh": "模拟面试"},
    "search": {"en": "Search", "zh": "查找"},
    "progress": {"en": "Progress", "zh": "进度"},
    "language": {"en": "language", "zh": "语言"},
    "any_topic": {"en": "all topics", "zh": "全部主题"},
    "any_level": {"en": "all levels", "zh": "全部难度"},
    "any_kind": {"en": "all kinds", "zh": "全部题型"},
    "waiting": {"en": "{count} to answer", "zh": "待答 {count} 题"},
    "all_done": {"en": "Nothing is due here. Next: {when}.", "zh": "这里没有到期的题目。下次复习：{when}。"},
    "show_answer": {"en": "Show the answer", "zh": "看答案"},
    "tick": {"en": "Tick the points you made:", "zh": "勾选你说到的要点："},
    "rating": {"en": "How well?", "zh": "掌握程度"},
    "again": {"en": "again", "zh": "重来"},
    "hard": {"en": "hard", "zh": "困难"},
    "good": {"en": "good", "zh": "良好"},
    "easy": {"en": "easy", "zh": "轻松"},
    "next": {"en": "Keep and go on", "zh": "保存并继续"},
    "code": {"en": "Your code", "zh": "你的代码"},
    "check": {"en": "Check", "zh": "检查"},
    "checking": {"en": "Checking; the first time takes some seconds …", "zh": "检查中，第一次需要几秒钟……"},
    "role": {"en": "role", "zh": "岗位"},
    "level_to": {"en": "level up to", "zh": "最高难度"},
    "minutes": {"en": "minutes", "zh": "分钟"},
    "start": {"en": "Start", "zh": "开始"},
    "once_more": {"en": "Another interview", "zh": "再来一次"},
    "stop": {"en": "End the interview", "zh": "结束面试"},
    "time_up": {"en": "Time is up: mark this answer, then comes the sheet.", "zh": "时间到：给本题打分后查看结果。"},
    "words": {"en": "words", "zh": "关键词"},
    "found": {"en": "{count} found", "zh": "找到 {count} 题"},
    "picture": {
        "en": "Left: answers on each of the last 14 days. Right: share of each topic's questions seen, by its number "
        "in the table; darker: points made when last asked.",
        "zh": "左图：最近 14 天每天的作答次数。右图：各主题（编号见下表）已见题目的比例；深色：上次得分。",
    },
    "seen": {"en": "seen", "zh": "已见"},
    "due_now": {"en": "due", "zh": "到期"},
    "last_score": {"en": "points made last time", "zh": "上次得分"},
}


def label(name: str, language: str, **values: object) -> str:
    """Return a label with its values filled in."""
    return LABELS[name][language].format(**values)
