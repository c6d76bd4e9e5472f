"""The hostile set: what a notebook may try, and what must come out.

Sheets of lesson 02. Only `attention_map` is right, so only that may earn points.
"""

from dataclasses import dataclass, field

import nbformat

from ctkd_lessons.course.lessons import find, read_notebook

LESSON = find("02")
RIGHT = "attention_map"
ATTACKED = ("projected_hint", "similarity_loss", "distance_loss", "channel_loss", "distil_features")
LAZY = "def {}(*arguments):\n    return torch.zeros(())"


@dataclass(frozen=True)
class Attack:
    """An attack by code.

    ``cell``: runs before the answers; ``answers``: of some exercises, for the others a lazy one stands;
    ``reason``: what the result's reason says, "" where it is graded; ``headlines``: what the marks say;
    ``note``: what a note says; ``keeps``: whether the right answer keeps its points; ``limits``: beside the usual.
    """

    name: str
    cell: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    headlines: dict[str, str] = field(default_factory=dict)
    note: str = ""
    keeps: bool = True
    limits: dict[str, float] = field(default_factory=dict)


def sheet(cell="", answers=()):
    """Return the sheet as a notebook: a cell after the imports, one right answer, the others lazy unless given."""
    work = read_notebook(LESSON.exercise)
    right = {one.id: one.source for one in read_notebook(LESSON.solution).cells}[RIGHT]
    for one in work.cells:
        if one.id in (RIGHT, *ATTACKED):
            one.source = right if one.id == RIGHT else LAZY.format(one.id)
            one.source = dict(answers).get(one.id, one.source)
    place = 1 + next(number for number, one in enumerate(work.cells) if one.id == "imports")
    work.cells.insert(place, nbformat.v4.new_code_cell(cell, id="attack"))
    return work


_REQUEST = """
import gc, glob, json, os, sys
asked = json.load(open("/course/request.json"))["exercises"]
"""

# Events that look as if they came from the harness, for every exercise, made of what the sandbox holds.
FORGE = (
    _REQUEST
    + """
def pairs(case): return [[name, value] for name, value in case["dict"]]
def guess(case):
    arrays = [value for name, value in pairs(case) if isinstance(value, dict)]
    told = [["type", "torch.Tensor"], ["dtype", "torch.float32"], ["value", arrays[0]], ["differentiable", "yes"]]
    kept = [[f"`{name}` afterwards", value] for name, value in pairs(case)]
    none = [[f"gradient into `{name}`", "none"] for name, _ in pairs(case)]
    return {"dict": told + kept + none + [[f"gradient of `{name}`", value] for name, value in pairs(case)]}
forged = [{"exercise": one["id"], "seen": [guess(case) for case in one["cases"]], "again": guess(one["cases"][0]),
           "changed": []} for one in asked[1:]]
lines = [json.dumps(event) for event in forged] + ['{"changed": []}', '{"broken', '[' * 100_000, 'NaN', '1', '""']
text = ("\\n" + "\\n".join(lines) + "\\n").encode()
"""
)

PROGRAM = Attack(
    "what ends the process in an answer",
    answers={
        "projected_hint": "def projected_hint(*a):\n    while True:\n        try:\n            while True: pass\n"
        "        except BaseException: pass",
        "similarity_loss": "def similarity_loss(*a):\n    import os\n    os._exit(0)",
        "distance_loss": "def distance_loss(*a):\n    import os\n    os.kill(os.getpid(), 9)",
        "channel_loss": "def channel_loss(*a):\n    import os\n    os.kill(os.getpid(), 19)",
        "distil_features": "def distil_features(*a):\n    import os\n    os.killpg(0, 9)",
    },
    headlines={
        "projected_hint": "did not end within",
        "similarity_loss": "Not graded.",
        "distance_loss": "SIGKILL",
        "channel_loss": "did not end within",
        "distil_features": "SIGKILL",
    },
)

_DEEP = "import json, sys\n    sys.setrecursionlimit(10**9)\n    text = '[' * 10**7\n    json.loads(text)"
CRASHES = Attack(
    "crashes and odd exceptions in an answer",
    answers={
        "projected_hint": "def projected_hint(*a):\n    return projected_hint(*a)",
        "similarity_loss": f"def similarity_loss(*a):\n    {_DEEP}",
        "distance_loss": "class Odd(Exception):\n    def __str__(self): raise self\n"
        "def distance_loss(*a):\n    raise Odd",
        "channel_loss": "def channel_loss(*a):\n    raise ValueError('\\ud800\\0<b>' + 'x' * 10**6)",
        "distil_features": "import ctypes\ndef distil_features(*a):\n    ctypes.string_at(0)",
    },
    headlines={
        "projected_hint": "RecursionError",
        "similarity_loss": "crashed (SIG",
        "distance_loss": "ended the process",
        "channel_loss": "stopped with ValueError: ?",
        "distil_features": "crashed (SIGSEGV)",
    },
)

LIARS = Attack(
    "objects that lie about what they are",
    cell="""
import numpy as np
class Equal(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
class Fake:
    __class__ = torch.Tensor
    dtype, requires_grad, ndim = Equal("torch.float32"), True, 0
    def detach(self): return self
    cpu = detach
    def numpy(self): return AlwaysRight(())
    def __eq__(self, other): return True
class AlwaysRight(np.ndarray):
    def __eq__(self, other): return True
    def __array_ufunc__(self, *a, **k): return True
    def __reduce__(self): return print, ("unpickled",)
class Lying(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None): return arguments[0]
class Number(float):
    def __eq__(self, other): return True
    def __float__(self): return 0.5
""",
    answers={
        "projected_hint": "def projected_hint(*a): return Fake()",
        "similarity_loss": "def similarity_loss(*a): return a[0].as_subclass(Lying)",
        "distance_loss": "def distance_loss(*a): return np.array([Fake()], dtype=object)",
        "channel_loss": "def channel_loss(*a): return Number(0.5)",
        "distil_features": "class distil_features:\n    __class__ = 1\n    def __init__(self, *a): pass",
    },
)

BY_CODE = (
    PROGRAM,
    CRASHES,
    LIARS,
    Attack("ends its process in a cell", "import os\nos._exit(0)", reason="left by `os._exit`", keeps=False),
    Attack(
        "kills the parent and everybody it can from an answer",
        answers={"similarity_loss": "def similarity_loss(*a):\n    import os\n    os.kill(os.getppid(), 9)\n"},
        reason="Its process ended before its time",
    ),
    Attack(
        "kills every process in a cell, then stops its parent from an answer",
        "import os\nos.kill(-1, 9)",
        {"projected_hint": "def projected_hint(*a):\n    import os\n    os.kill(os.getppid(), 19)"},
        reason="did not end within",
        limits={"seconds": 8},
    ),
    Attack(
        "loops in a cell, deaf to interrupts and alarms",
        """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True:
    try:
        while True: pass
    except BaseException: pass
""",
        reason="did not end within 8 s. The cell that begins with `import signal` was running.",
        keeps=False,
        limits={"seconds": 8},
    ),
    Attack(
        "loops in a cell",
        "while True: pass",
        note="`while True: pass` stopped with TimeoutError",
        limits={"cell_seconds": 1},
    ),
    Attack(
        "forks without end",
        "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)",
        reason="bytes of memory",  # what the many hold together is passed before their number is
        keeps=False,
    ),
    Attack(
        "takes memory bit by bit, in several processes",
        "import os\nos.fork()\nkept = []\nwhile True: kept.append(bytearray(os.urandom(1) * (8 << 20)))",
        reason="bytes of memory",
        keeps=False,
        limits={"memory": 1 << 30},
    ),
    Attack(
        "prints 100 MB",
        "for _ in range(1000): print('x' * 100_000)",
        reason="It printed more than",
        keeps=False,
    ),
    Attack(
        "writes 100 MB to everything that is open",
        "import os\nfor _ in range(1000):\n    for file in range(1, 32):\n        try: os.write(file, b'{' * 50_000)\n"
        "        except OSError: pass",
        reason="more than",
        keeps=False,
    ),
    Attack(
        "patches what might compare",
        "import builtins\nimport numpy as np\nnp.allclose = torch.equal = torch.allclose = lambda *a: True\n"
        "builtins.abs = lambda x: 0\nbefore = builtins.__import__\n"
        "builtins.__import__ = lambda *a, **k: before(*a, **k)",
        reason="It changes what belongs to a library: builtins.__import__, builtins.abs, numpy.allclose",
        keeps=False,
    ),
    Attack(
        "patches the harness",
        "import importlib, json, os, sys\n"
        "for module in [m for name, m in sys.modules.items() if name.startswith('ctkd_')]:\n"
        "    for name in [n for n in vars(module) if n.startswith(('DRIVE_', 'watch', 'pack', 'observe'))]:\n"
        "        setattr(module, name, lambda *a, **k: {'type': 'torch.Tensor', 'value': 0.0})\n",
        reason="It changes what belongs to a library: ctkd_lessons.course.",
        keeps=False,
    ),
    Attack(
        "patches os.write and json.dumps to rewrite its events",
        "import json, os\ndumps = json.dumps\n"
        "json.dumps = lambda event, **k: dumps({**event, 'changed': []} if 'changed' in event else event, **k)\n",
    ),
    Attack(
        "import hooks, syntax transformers, shadowing modules",
        """
import ast, importlib.abc, sys, types
class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None): return None
sys.meta_path.insert(0, Hook())
class Rewrite(ast.NodeTransformer):
    def visit_Constant(self, node): return ast.copy_location(ast.Constant(1), node) if node.value == 0 else node
    def visit_Assert(self, node): return ast.copy_location(ast.Pass(), node)
get_ipython().ast_transformers.append(Rewrite())
get_ipython().input_transformers_cleanup.append(lambda lines: lines)
get_ipython().run_cell_magic("writefile", "torch.py", "equal = allclose = lambda *a: True")
sys.path.insert(0, "/tmp")
for name in ("ctkd_lessons.course.check", "ctkd_lessons.course.examine", "ctkd_lessons.features"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["ctkd_lessons.course.check"].check = lambda *a: print("right")
""",
    ),
    Attack(
        "forges events on every open file and ends the process",
        FORGE + "for file in range(1, 256):\n    try: os.write(file, text)\n    except OSError: pass\nos._exit(0)",
        keeps=False,
    ),
    Attack(
        "forges events through the speaker, found among all objects",
        FORGE
        + """
speakers = [one for one in gc.get_objects() if type(one).__name__ == "_Speaker"]
for speak in speakers:
    for event in forged: speak(**event)
    speak(exercise="02.channel_loss", stopped=[])
    speak(exercise={}, cell=[], error={}, ready=[], changed=0)
""",
    ),
    Attack(
        "a second life for each exercise, forged from an answer",
        answers={
            "projected_hint": "def projected_hint(*a):\n    "
            + (FORGE + "for file in range(1, 256):\n    try: os.write(file, text)\n    except OSError: pass").replace(
                "\n", "\n    "
            )
        },
    ),
)

# Each prints "tried NAME" and, where it gets what it should not, "GOT NAME". One sheet tries them all.
PROBES = {
    "environment": "SECRET in str(dict(os.environ)) or any(SECRET in read(f) for f in glob.glob('/proc/*/environ'))",
    "arguments of the grader": "any('pytest' in read(f) for f in glob.glob('/proc/*/cmdline'))",
    "a file of the host": "SECRET in read(CANARY)",
    "a file of the host, through a process": "any(SECRET in read(f + '/root' + CANARY) for f in glob.glob('/proc/*'))",
    "writing a file of the host": "write(CANARY)",
    "the gradebook": "write(FOLDER + '/gradebook.db')",
    "another submission": "os.path.exists(FOLDER + '/submitted') or os.path.exists(FOLDER)",
    "the home folder": "any(os.listdir(h) for h in ('/home', os.path.expanduser('~grader')) if os.path.exists(h))",
    "passwords": "os.path.exists('/etc/passwd') or os.path.exists('/etc/shadow')",
    "the solutions": "any(os.path.exists(p) for p in PLACES)",
    "the reference": "importable('ctkd_lessons.features') or importable('ctkd_lessons.course.examine')",
    "notebooks and the course anywhere": "find_course()",
    "installing the course": "subprocess.run([sys.executable, '-m', 'pip', 'install', '--no-input', '--retries', '0', "
    "'--target', '/tmp/got', 'file:///nowhere/ctkd-lessons'], capture_output=True, timeout=15).returncode == 0",
    "the network": "reach(socket.AF_INET, ('127.0.0.1', PORT))",
    "an abstract socket": "reach(socket.AF_UNIX, chr(0) + ABSTRACT)",
    "root": "os.getuid() == 0 or os.setuid(0) is None",
    "a user namespace": "libc.unshare(0x10000000) == 0",
    "a user namespace, by clone": "libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) >= 0 if X86 else False",
    "a file system of its own": "libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0",
    "uncounted memory: memfd": "os.memfd_create('much') >= 0",
    "uncounted memory: System V": "libc.shmget(0, ctypes.c_size_t(1 << 30), 0o1600) >= 0",
    "uncounted memory: a shared mapping": "mmap.mmap(-1, 1 << 20)",
    "uncounted memory: /dev/zero": "mmap.mmap(os.open('/dev/zero', os.O_RDWR), 1 << 20)",
    "uncounted memory: /dev/shm": "fill('/dev/shm') > 2 << 20",
    "more disk than allowed": "fill('/tmp') > 65 << 20",
    "20 GB in one go": "bytearray(20 << 30)",
    "20 GB of tensor": "torch.ones(5 << 30)",
    "more processes than allowed": "crowd() >= 64",
    "higher limits": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1)) is None",
    "keys of the grader's session": "libc.syscall(250, 0, -3, 0) >= 0 if X86 else False",
    "the memory of process 1": "write('/proc/1/mem') or write('/proc/1/task/1/mem')",
    "writing the course": "write('/course/inside.py') or write(torch.__file__)",
    "privileges of programs": "subprocess.run(['su', '-c', 'true'], capture_output=True, timeout=5).returncode == 0",
}

_HELPERS = """
import ctypes, glob, importlib, json, mmap, os, resource, socket, subprocess, sys
libc = ctypes.CDLL(None)
X86 = os.uname().machine == "x86_64"
def say(*words): os.write(1, (" ".join(words) + "\\n").encode())
def read(place):
    try: return open(place, errors="replace").read()
    except OSError: return ""
def write(place):
    try: return os.write(os.open(place, os.O_WRONLY | os.O_CREAT), b"") >= 0
    except OSError: return False
def importable(name):
    try: module = importlib.import_module(name)
    except ImportError: return False
    return hasattr(module, "similarity_loss") or hasattr(module, "examine")
def reach(family, address):
    with socket.socket(family) as one:
        one.settimeout(2)
        return one.connect_ex(address) == 0
def fill(folder):
    size = 0
    try:
        for number in range(20):
            with open(f"{folder}/{number}", "wb", buffering=0) as file:
                for _ in range(16): size += file.write(bytes(1 << 20))
    except OSError: pass
    for name in glob.glob(f"{folder}/[0-9]*"): os.unlink(name)
    return size
def crowd():
    started = []
    try:
        while len(started) < 200: started.append(subprocess.Popen(["sleep", "1000"]))
    except OSError: pass
    for one in started: one.kill()
    for one in started: one.wait()
    return len(started)
def find_course():
    for folder, folders, files in os.walk("/"):
        if folder in ("/proc", "/course"): folders.clear()
        if "ctkd_lessons" in folders and os.listdir(folder + "/ctkd_lessons"): return True
        for name in files:
            if name.endswith(".ipynb") and "ctkd_lessons" in read(folder + "/" + name): return True
    course = " ".join(read(name) for name in glob.glob("/course/**", recursive=True) if name.endswith(".py"))
    return "def similarity_loss" in course or "BEGIN SOLUTION" in course
def look(name, attempt):
    say("tried", name)
    try: got = attempt()
    except (Exception, SystemExit): got = False
    if got: say("GOT", name)
"""

# A daemon outlives its parents, keeps every file open, and speaks later.
_DAEMON = """
if not os.fork():
    os.setsid()
    if not os.fork():
        import time
        while True:
            time.sleep(0.2)
            write(CANARY)
            for file in range(3, 32):
                try: os.write(file, b'{"exercise": "02.channel_loss", "seen": []}\\n')
                except OSError: pass
    os._exit(0)
"""


def program(attempts, **known):
    """Return a program that tries probes; ``known``: what an attacker may have heard of the grader's machine."""
    told = [f"{name} = {value!r}" for name, value in known.items()]
    return "\n".join((_HELPERS, *told, *(f"look({name!r}, lambda: {attempt})" for name, attempt in attempts.items())))


def probes(**known):
    """Return the sheet that tries all probes, talks to nobody on stdout, and leaves a daemon behind."""
    forged = 'say(\'{"exercise": "02.channel_loss", "seen": [], "points": 3}\')'
    return sheet("\n".join((program(PROBES, **known), forged, _DAEMON)))


def forged_events(exercise="02.attention_map", inputs=6):
    """Yield names and lines as a sandbox might write them, none of them honest."""
    value = {"array": "", "dtype": "<f4", "shape": [0]}

    def seen(**changes):
        return [{"dict": [["type", "torch.Tensor"], ["dtype", "torch.float32"], ["value", value | changes]]}] * inputs

    dtypes = ("O", "|O8", "V8", "<U400000000", "f4," * 100_000, "(3000000,)f4", "M8[ns]", "U", "\ud800", "S8", "<c16")
    shapes = ([-1], [10**9], [0, 10**30], [True], [1.5], [0] * 40, "x", [[0]], [2, 3])
    told = {f"dtype {dtype[:12]!r}": {"seen": seen(dtype=dtype)} for dtype in dtypes}
    told |= {f"shape {shape!r:.20}": {"seen": seen(shape=shape)} for shape in shapes}
    told |= {f"array {data!r:.12}": {"seen": seen(array=data)} for data in ("\x80\x04cos\nsystem", "gASVaA==", 5, None)}
    told |= {f"stopped {why!r:.20}": {"stopped": why} for why in ([], {}, None, "{limits}", float("nan"), "x" * 10**6)}
    told |= {f"missing {why!r:.20}": {"missing": why} for why in ([], "{0.__class__}", "\ud800\0", 5)}
    told |= {f"seen {what!r:.20}": {"seen": what} for what in (None, 5, {}, [], [1] * inputs, "x" * inputs, [[]])}
    told["raised"] = {"seen": [{"dict": [["raised", "\ud800"], ["message", "\0\x1b[2J<b>"], ["line", 5]]}] * inputs}
    told["words of any length"] = {"seen": [{"dict": [["type", "x" * 10**6]]}] * inputs}
    told["nested"] = {"seen": _nested("[", "]", 900)}
    told["nested dicts"] = {"seen": [_nested('{"dict":[["a",', "]]}", 300)] * inputs}
    return {name: [{"exercise": exercise, "again": 1, **event}] for name, event in told.items()} | {
        "changed nested": [{"changed": [_nested("[", "]", 900)]}],
        "changed half a character": [{"changed": ["\ud800"]}],
        "cell of odd numbers": [{"cell": number, "error": "\ud800\0"} for number in (float("inf"), True, -1, [], "0")],
        "error nested": [{"cell": 0, "error": _nested("[", "]", 900)}],
        "twice": [{"exercise": exercise, "stopped": "exit"}, {"exercise": exercise, "seen": seen()}],
        "no names": [{"exercise": {}}, {"exercise": None, "seen": []}],
    }


def _nested(opening, closing, depth):
    import json

    return json.loads(opening * depth + ("1" if ":" in opening else "") + closing * depth)
