"""What gunicorn calls in each of its processes. It imports nothing itself: gevent has to replace threads before."""

from __future__ import annotations


def post_worker_init(_worker):
    import wsgi_app

    wsgi_app.start()


def worker_exit(_server, _worker):
    import wsgi_app

    wsgi_app.stop()
