"""The page in a browser: found and used as people do, by roles and labels, and watched for what it must not do."""

import re

from playwright.sync_api import expect

# The page looks for what is new every five seconds.
expect.set_options(timeout=15_000)
# A status that a fetch gets is told on the console too; the page has to deal with it, and tests see how it does.
OF_FETCH = "Failed to load resource: the server responded with a status of"


class Portal:
    """The page. Whatever was complained about on its console, by its policy or by a script fails `close()`."""

    def __init__(self, chromium, gateway, screenshots, **options):
        self.gateway = gateway
        self.screenshots = screenshots
        self.complaints = []
        self.addresses = set()
        self.context = chromium.new_context(
            base_url=gateway.url, **{"viewport": {"width": 1200, "height": 900}, **options}
        )
        self.context.set_default_timeout(15_000)
        self.page = self.context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.addresses.add(request.url))
        self.response = self.page.goto("/portal")

    def _on_console(self, message):
        if message.type in ("error", "warning") and not message.text.startswith(OF_FETCH):
            self.complaints.append(message.text)

    def close(self):
        self.context.close()
        assert not self.complaints, self.complaints
        elsewhere = [it for it in self.addresses if not it.startswith(self.gateway.url + "/")]
        assert not elsewhere, elsewhere

    # Who is there

    def sign_in(self, api, title="Webhooks"):
        self.field("Your API key").fill(api.key)
        self.press("Show webhooks")
        self.shows(title)

    # What is there

    def shows(self, title):
        """Waits for a view."""
        expect(self.page.get_by_role("heading", level=1, name=title, exact=True)).to_be_visible()

    def field(self, label):
        """What is typed into, chosen from or ticked, of what is to be seen."""
        return (
            self.page.get_by_label(label, exact=True)
            .and_(self.page.locator("input, select, textarea"))
            .filter(visible=True)
        )

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def link(self, name):
        return self.page.get_by_role("link", name=name, exact=True)

    @property
    def dialog(self):
        return self.page.get_by_role("dialog")

    def rows(self, name):
        """The rows of a table, without its head."""
        table = self.page.get_by_role("table", name=name)
        return table.get_by_role("row").filter(has=self.page.get_by_role("rowheader"))

    def fact(self, term):
        """What the page says of something, where it shows facts about one webhook or delivery."""
        return self.page.locator("main dl:visible > dt").filter(has_text=re.compile(f"^{term}$")).locator("+ dd")

    def says(self, text):
        """Waits until the page says that something was done."""
        expect(self.page.get_by_role("status").filter(has_text=text)).to_be_visible()

    def complains(self, text):
        """Waits until the page says that something is wrong."""
        expect(self.page.get_by_role("alert").filter(has_text=text)).to_be_visible()

    def complains_beside(self, label, text):
        """Waits until a complaint stands beside a field, and is known to whoever hears the page and is in that field."""
        expect(self.field(label)).to_have_attribute("aria-invalid", "true")
        expect(self.field(label)).to_have_accessible_description(re.compile(text))

    # What is done

    def press(self, name):
        self.button(name).click()

    def press_there(self, name):
        """In the dialog that is open."""
        self.dialog.get_by_role("button", name=name, exact=True).click()

    def go(self, where):
        """To a view, by its address, without loading the page again."""
        self.page.evaluate("where => { location.hash = where }", where)

    def screenshot(self, name):
        """All of the page; of a dialog, what is on the screen."""
        self.screenshots.mkdir(parents=True, exist_ok=True)
        whole = not self.dialog.is_visible()
        self.page.screenshot(path=self.screenshots / f"{name}.png", full_page=whole)
