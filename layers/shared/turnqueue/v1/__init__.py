"""The OpenAI API (/v1), translated to and from turns. It has no separate store and no separate way to the model. Submit
and status import it on their first /v1 request, so that a cold start for /chat is no slower.
"""
