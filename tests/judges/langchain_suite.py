"""LangChain's integration tests of chat models, over both APIs. tests/judges runs it in .tools/judges."""

import os
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class Suite(ChatModelIntegrationTests):
    responses: bool

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "general",
            "base_url": os.environ["JUDGED_URL"],
            "api_key": os.environ["JUDGED_KEY"],
            "use_responses_api": self.responses,
            "stream_usage": True,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestResponses(Suite):
    responses = True


class TestCompletions(Suite):
    responses = False


del Suite, ChatModelIntegrationTests  # otherwise pytest would run them too
