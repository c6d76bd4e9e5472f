"""nbgrader for this course: https://nbgrader.readthedocs.io. Read by every nbgrader command started in this folder."""

import os
import re
import sys
from pathlib import Path

c = get_config()  # noqa: F821 -- nbgrader provides it

ROOT = Path(__file__).resolve().parent
# nbgrader calls alembic by name; this way it is found where nobody activated the environment.
SEARCH, PROGRAMS = os.environ.get("PATH", os.defpath).split(os.pathsep), str(Path(sys.executable).parent)
os.environ["PATH"] = os.pathsep.join([*SEARCH, *([] if PROGRAMS in SEARCH else [PROGRAMS])])

c.CourseDirectory.course_id = "ctkd"
c.CourseDirectory.root = str(ROOT)
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"

# `nbgrader generate_assignment 01_soft_targets --force` writes the very file that `make exercises` writes.
c.GenerateAssignment.preprocessors.append("ctkd_lessons.course.classroom.nbgrading.release.Tidy")

# `nbgrader autograde`, and the formgrader's flash of lightning, run a student's code with your rights, and believe it.
# `ctkd grade` runs it in a sandbox, and fills the same gradebook.

# What a student hands in is shown without anything a browser would run: in the formgrader and in feedback.
c.HTMLExporter.sanitize_html = True
c.HTMLExporter.preprocessors = ["ctkd_lessons.course.classroom.nbgrading.harmless.Harmless"]
c.HTMLExporter.filters = {
    "clean_html": "ctkd_lessons.course.classroom.nbgrading.harmless.clean",
    "markdown2html": "ctkd_lessons.course.classroom.nbgrading.harmless.markdown",
}

# `nbgrader zip_collect 01_soft_targets` unpacks what lies in downloaded/01_soft_targets/archive/.
c.ZipCollectApp.extractor_plugin = "ctkd_lessons.course.classroom.nbgrading.extract.SafeExtractor"
# Who handed in what. As it stands, up to the first underscore is the student:
#     Anna Li_4711_assignsubmission_file_01_soft_targets.ipynb, or .../file_/01_soft_targets.ipynb      (Moodle)
#     lianna_LATE_55_66_01_soft_targets-1.ipynb                                                        (Canvas)
# For other names change the part between the two groups, or what student_id may hold; with a third group
# (?P<timestamp>…) the time of submission is taken from the name. Put only the archive of the learning platform there:
# a name inside an archive that a student made says what that student wants.
c.FileNameCollectorPlugin.named_regexp = (
    re.escape(str(ROOT / "downloaded"))
    + r"[/\\][^/\\]+[/\\]extracted[/\\](?:[^/\\]+[/\\])??"
    + r"(?P<student_id>[^/\\_]+)_(?:[^/\\]*_)??[/\\]?(?P<file_id>\d\d_[a-z0-9_]+?)(?:-\d+)?\.ipynb$"
)

# Late work: "zero" takes all points. A plugin of your own can take some: c.AssignLatePenalties.plugin_class.
c.LateSubmissionPlugin.penalty_method = "none"
