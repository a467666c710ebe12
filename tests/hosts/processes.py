"""A program whose workers are processes of `multiprocessing`: each builds what it needs, or has what its parent built."""

from __future__ import annotations

import multiprocessing
import sys

import parts

queue, runner = parts.threads()


def work(job_id, user):
    with queue, runner:
        queue.enqueue(job_id, conversation_id="c", metadata=parts.metadata(user))
        runner.start()
        outcome = queue.wait(job_id, timeout_s=20)
        print(runner.worker_id, outcome.kind.value)


def started_by(context, *arguments):
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


if __name__ == "__main__":
    # A connection that is open when the processes begin.
    queue.counts()
    context = multiprocessing.get_context(sys.argv[1])
    started = [started_by(context, f"job_{user[-1]}", user) for user in sys.argv[2:]]
    for process in started:
        process.join(30)
    sys.exit(max(process.exitcode for process in started))
