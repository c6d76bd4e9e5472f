"""What practice says to the learner, in both languages."""

SAYS: dict[str, dict[str, str]] = {
    "concept": {"en": "concept", "zh": "概念"},
    "derivation": {"en": "derivation", "zh": "推导"},
    "comparison": {"en": "comparison", "zh": "比较"},
    "debugging": {"en": "debugging", "zh": "诊断"},
    "design": {"en": "design", "zh": "系统设计"},
    "coding": {"en": "coding", "zh": "编程"},
    "paper": {"en": "paper", "zh": "论文"},
    "research": {"en": "researcher", "zh": "研究员"},
    "engineer": {"en": "engineer", "zh": "工程师"},
    "applied": {"en": "applied scientist", "zh": "应用科学家"},
    "level": {"en": "level {level}", "zh": "难度 {level}"},
    "points": {"en": "Points of a good answer", "zh": "好的回答应包含的要点"},
    "answer": {"en": "Model answer", "zh": "参考答案"},
    "wrong": {"en": "Common wrong answers", "zh": "常见错误回答"},
    "follow_ups": {"en": "Follow-ups", "zh": "追问"},
    "measured": {"en": "Measured in the course (mean, 95 % interval)", "zh": "本课程的实测结果（均值与 95% 置信区间）"},
    "papers": {"en": "Papers", "zh": "论文"},
    "lesson": {"en": "Lesson", "zh": "课程"},
    "lesson_at": {"en": "{name}, cell {cell}", "zh": "{name}，单元格 {cell}"},
    "figure": {"en": "Figure: {path}", "zh": "图：{path}"},
    "card": {"en": "Card {number} of {total}", "zh": "第 {number} 张，共 {total} 张"},
    "none_due": {
        "en": "Nothing is due. The next question is due {when}. Others: ctkd interview --search TEXT.",
        "zh": "现在没有到期的题目。下一题到期时间：{when}。查找其他题目：ctkd interview --search 文字。",
    },
    "nothing_fits": {"en": "No question fits.", "zh": "没有符合条件的题目。"},
    "show": {
        "en": "Answer aloud, then press Enter for the answer (q: stop): ",
        "zh": "先口头回答，再按回车看答案（q：结束）：",
    },
    "which": {
        "en": "Which points did you make? Numbers such as 1 3, a for all, Enter for none: ",
        "zh": "你说到了哪几点？输入编号（如 1 3），a 表示全部，直接回车表示没有：",
    },
    "which_again": {
        "en": "Please give numbers from 1 to {count}, a for all, or only Enter.",
        "zh": "请输入 1 到 {count} 的编号、a（全部），或直接回车。",
    },
    "rating": {
        "en": "How well? 1 again, 2 hard, 3 good, 4 easy [{suggested}]: ",
        "zh": "掌握得如何？1 重来，2 困难，3 良好，4 轻松 [{suggested}]：",
    },
    "rating_again": {"en": "Please give 1, 2, 3 or 4.", "zh": "请输入 1、2、3 或 4。"},
    "due": {"en": "Asked again {when}.", "zh": "下次复习：{when}。"},
    "done": {"en": "Answered: {count}. What you practised is kept.", "zh": "已回答 {count} 题，进度已保存。"},
    "write": {
        "en": "Write it in {path}\nthen press Enter to check it (s: skip, q: stop): ",
        "zh": "请在 {path} 中作答，\n完成后按回车检查（s：跳过，q：结束）：",
    },
    "mock": {
        "en": "Mock interview: {count} questions, {minutes:g} minutes, {role}, level {level}.",
        "zh": "模拟面试：{count} 题，{minutes:g} 分钟，{role}，难度 {level}。",
    },
    "mock_question": {
        "en": "Question {number} of {total} · {minutes} min for it · {left} min left",
        "zh": "第 {number} 题，共 {total} 题 · 本题 {minutes} 分钟 · 剩余 {left} 分钟",
    },
    "time_over": {"en": "Time is over: {count} not asked.", "zh": "时间到，还有 {count} 题未问。"},
    "took": {"en": "You took {took} of {minutes} min.", "zh": "用时 {took} 分钟（建议 {minutes} 分钟）。"},
    "sheet": {
        "en": "How it went: {score} % in {minutes} minutes",
        "zh": "结果：得分 {score}%，用时 {minutes} 分钟",
    },
    "topic": {"en": "topic", "zh": "主题"},
    "kind": {"en": "kind", "zh": "题型"},
    "score": {"en": "score", "zh": "得分"},
    "strong": {"en": "Strong", "zh": "强项"},
    "weak": {"en": "Weak", "zh": "弱项"},
    "read_again": {"en": "Read again", "zh": "建议重读"},
    "nothing": {"en": "none", "zh": "无"},
    "choose": {"en": "Number of the one to answer (Enter: none): ", "zh": "输入要回答的题号（直接回车：不选）："},
    "mock_done": {
        "en": "Mock interview {when}: {count} questions, {score} %",
        "zh": "模拟面试 {when}：{count} 题，{score}%",
    },
    "loading": {"en": "Checking …", "zh": "正在检查……"},
    "stopped_check": {"en": "The check was stopped.", "zh": "检查已中止。"},
    "history": {
        "en": "answers: {reviews}, days: {days}, questions seen: {seen} of {total}, due: {due}",
        "zh": "共作答 {reviews} 次，{days} 天，见过 {seen}/{total} 题，{due} 题到期",
    },
    "history_head": {"en": "topic: seen of all, due, points made last time", "zh": "主题：见过/总数，到期，上次得分"},
    "imported": {"en": "New answers from {path}: {count}.", "zh": "从 {path} 导入 {count} 条新记录。"},
    "exported": {"en": "Answers written to {path}: {count}.", "zh": "{count} 条记录已写入 {path}。"},
    "encoding": {
        "en": "This terminal shows only {encoding}; other signs are replaced. "
        "To see all of them, set PYTHONUTF8=1 (Windows: also chcp 65001) and start again.",
        "zh": "Chinese needs a terminal with UTF-8; this one shows only {encoding}. "
        "Set PYTHONUTF8=1 (Windows: also chcp 65001) and start again, or use --language en.",
    },
}


def say(name: str, language: str, /, **values: object) -> str:
    """Return a phrase with its values filled in."""
    return SAYS[name][language].format(**values)
