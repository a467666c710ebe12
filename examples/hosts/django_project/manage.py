"""A Django site with one app: a view that orders videos, and a command that works on them.

pip install videopoll django
cd examples/hosts/django_project
python manage.py video_worker &
python manage.py runserver --noreload 8000 &
curl -d job=job_1 -d to=5491155550001 http://127.0.0.1:8000/videos/
curl http://127.0.0.1:8000/videos/job_1/
"""

from __future__ import annotations

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line

# In a project of yours this is settings.py.
settings.configure(
    SECRET_KEY=os.environ.get("APP_SECRET", "only for this example"),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF="videos.urls",
    INSTALLED_APPS=["videos"],
    USE_TZ=True,
    VIDEOPOLL={"redis_url": os.environ["REDIS_URL"], "prefix": os.environ.get("PREFIX", "django")},
)

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
