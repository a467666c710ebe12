"""A notebook, whose cells run in an event loop that is there already. Run as a program it carries it out."""

from __future__ import annotations

import sys

import nbclient
import nbformat

CELLS = [
    "import parts\nqueue, runner = parts.tasks()\nrunner.start()",
    "await queue.enqueue({job!r}, conversation_id='c', metadata=parts.metadata({user!r}))",
    "outcome = await queue.wait({job!r}, timeout_s=20)\nprint(outcome.kind.value)",
    "await runner.stop()\nawait parts.poller.aclose()\nawait parts.notifier.aclose()\nawait queue.close()",
    "queue, runner = parts.threads()\nrunner.start()\nprint(runner.health().problems)",
    "runner.stop()\nprint(runner.run_once().claimed)\nparts.poller.close()\nparts.notifier.close()\nqueue.close()",
]

job, user = sys.argv[1:]
book = nbformat.v4.new_notebook()
book.cells = [nbformat.v4.new_code_cell(cell.format(job=job, user=user)) for cell in CELLS]
nbclient.NotebookClient(book, timeout=60, kernel_name="python3").execute()
for cell in book.cells:
    print(*(output.get("text", output) for output in cell.outputs))
