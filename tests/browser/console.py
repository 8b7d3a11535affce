"""Operates the console like a user."""

from playwright.sync_api import Locator, Page, expect

# Answers go through a queue, and the first of them through cold starts.
expect.set_options(timeout=20_000)


class Console:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.message = page.get_by_role("textbox", name="Message")
        self.turns = page.locator("article.turn")
        self.last = self.turns.last
        self.conversations = page.locator("#conversation-list li")
        self.timelines = page.locator("#timelines > li")

    @property
    def session_id(self) -> str:
        return self.page.url.rpartition("#")[2]

    def send(self, text: str, *, role: str | None = None) -> Locator:
        """Send a message. Returns its turn."""
        before = self.turns.count()
        if role:
            self.page.get_by_label("Role").select_option(role)
        self.message.fill(text)
        self.page.get_by_role("button", name="Send", exact=True).click()
        turn = self.turns.nth(before)
        expect(turn.locator(".bubble")).to_have_text(text)
        return turn

    def settings(self, *, owner: str | None = None, token: str | None = None) -> None:
        """Choose a development owner, or give a token."""
        self.page.get_by_role("button", name="Settings").first.click()
        self.page.get_by_label(owner or "Another API or token").check()
        if token is not None:
            self.page.get_by_label("Token", exact=True).fill(token)
        self.page.get_by_role("button", name="Save").click()

    def expect_state(self, turn: Locator, label: str) -> None:
        expect(turn.locator(".state .chip")).to_have_text(label)

    def expect_answer(self, turn: Locator, text: str) -> None:
        self.expect_state(turn, "Done")
        expect(turn.locator(".text")).to_contain_text(text)
