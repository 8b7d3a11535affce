"""The OpenAI API (/v1), translated to and from turns. It has no second store and no second way to the model.

Submit and status import it on their first /v1 request, so that a cold start for /chat does not pay for it.
"""
