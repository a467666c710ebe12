"""Order a video, and look at it."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from videopoll import QueueError
from videopoll.errors import InvalidJobError
from videos.queue import video_queue


@csrf_exempt  # for curl; a form of your own has a token
@require_POST
def order(request: HttpRequest) -> JsonResponse:
    job_id, phone = request.POST.get("job", ""), request.POST.get("to", "")
    try:
        # In a transaction of your own: transaction.on_commit(lambda: video_queue().enqueue(…)).
        result = video_queue().enqueue(job_id, conversation_id=phone, metadata={"channel": "ultramsg", "to": phone})
    except InvalidJobError as error:
        return JsonResponse({"error": str(error)}, status=400)
    except QueueError:
        return JsonResponse({"error": "try again in a moment"}, status=503)
    return JsonResponse({"result": result}, status=202)


def look(request: HttpRequest, job_id: str) -> JsonResponse:
    job = video_queue().get(job_id)
    if job is None:
        return JsonResponse({"error": "there is no such video"}, status=404)
    return JsonResponse({"state": job.state.value, "outcome": job.outcome and job.outcome.kind.value})


urlpatterns = [path("videos/", order), path("videos/<str:job_id>/", look)]
