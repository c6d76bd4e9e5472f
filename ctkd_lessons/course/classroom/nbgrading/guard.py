"""A Jupyter server extension: nbgrader's pages write parts of their address into a script, unquoted.

A link such as ``…/formgrader/manage_students/";…`` would run in the instructor's browser. No name of a course holds
such signs, so those addresses are refused. ``ctkd lab`` switches this on; elsewhere:
``jupyter server extension enable ctkd_lessons.course.classroom.nbgrading.guard --sys-prefix``.
"""

from typing import Any

from tornado.web import HTTPError, RequestHandler

# Quotation marks, angle brackets, backslash and control characters, as an address writes them.
SIGNS = r'(?i:/formgrader/.*(?:["<>\\]|%22|%3c|%3e|%5c|%[01][0-9a-f]|%7f).*)'


class Refused(RequestHandler):
    """Answers with 400."""

    def prepare(self) -> None:
        """Refuse whatever the method."""
        raise HTTPError(400, "An address of the formgrader holds no quotation marks and no angle brackets.")


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    # Extensions load in the order of their names, and the first rule that fits wins: this stands before nbgrader's.
    server.web_app.add_handlers(".*$", [(rf"{server.web_app.settings['base_url'].rstrip('/')}{SIGNS}", Refused)])
