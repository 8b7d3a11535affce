"""The OpenAI API (/v1) as a translation to and from turns: no second store, no second way to the model.

Submit and status import it on their first /v1 request, so that a cold start for /chat does not pay for it.
"""
