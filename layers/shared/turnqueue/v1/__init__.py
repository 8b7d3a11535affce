"""The OpenAI API (/v1), translated to and from turns. It has no separate store and no separate way to the model. The
functions submit and status import this package on their first /v1 request, so that a cold start for /chat is no slower.
"""
