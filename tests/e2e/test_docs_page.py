"""The forms of /docs in Chromium: each is sent as the page has filled it in, and succeeds."""

import re
from typing import Any

import httpx
import pytest

from tests.support.chromium import ChromiumBrowser
from tests.support.stack import Stack
from tests.support.waiting import eventually

# Sends the forms one by one, in the order of the page or in the opposite one, and returns what each shows.
SEND_FORMS = """
const [backwards, done] = arguments;
const until = async (condition) => {
  const end = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`still waiting for ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};
const labels = (form) => [...form.querySelectorAll("label")];
const labelled = (form, name) => labels(form).find((one) => one.textContent.startsWith(name))?.querySelector("input");
(async () => {
  const answers = [];
  const sections = [...document.querySelectorAll("details")];
  if (backwards) sections.reverse();
  for (const section of sections) {
    const form = section.querySelector("form");
    const sid = labelled(form, "sid *");
    for (const input of form.querySelectorAll("input:required")) input.value ||= "any"; // ids of what this instance has none of
    if (sid) await until(() => sid.value);
    const before = sid?.value;
    form.querySelector("button").click();
    const answer = section.querySelector("pre");
    await until(() => !["", "…"].includes(answer.textContent));
    const operation = section.querySelector("summary").textContent.split("  ")[0];
    answers.push([operation, answer.textContent.split("\\n")[0], answer.textContent.slice(0, 800)]);
    if (operation.startsWith("delete /sockets")) await until(() => sid.value !== before);
  }
  return answers;
})().then(done, (error) => done([["script", String(error), ""]]));
"""


def open_docs(browser: ChromiumBrowser, stack: Stack) -> None:
    browser.open_url(f"{stack.url}/docs")
    eventually(lambda: browser.evaluate("return document.querySelectorAll('form').length") > 10, 10, "the forms")


@pytest.mark.parametrize("backwards", [False, True])
def test_untouched_examples_work_for_every_operation(browser: ChromiumBrowser, stack: Stack, backwards: bool) -> None:
    """Backwards too: an example that needs a file or an upload makes it."""
    with httpx.Client(base_url=stack.url) as client:
        for path in ("/files/demo/hello.txt", "/files/demo/by-path.txt", "/files/demo/renamed.webm"):
            client.delete(path)
        for stream in client.get("/live").json()["streams"]:  # the example makes one under a fixed name
            client.delete(f"/live/{stream['id']}")
        operations = sum(len(item) for item in client.get("/openapi.json").json()["paths"].values())
    open_docs(browser, stack)
    answers: list[list[str]] = browser.run_script(SEND_FORMS, backwards)
    refused = [answer for answer in answers if not answer[1].startswith("2")]
    assert [answer for answer in refused if not is_about_nothing_here(*answer)] == []
    assert {operation.split()[1].split("/")[1] for operation, _, _ in refused} <= {"file", "webhooks", "live", "upload"}
    assert len(answers) == operations


def is_about_nothing_here(operation: str, status: str, answer: str) -> bool:
    """An open instance without webhooks says what it does not have. No stream and no upload is as the examples name one."""
    path = operation.split()[1]
    if path == "/live/{id}/tus":  # offset and length, which no example can know, are looked at first
        return status.startswith(("400 ", "404 "))
    if path.startswith(("/live/{", "/upload/{")):
        return status.startswith(("404 ", "410 "))
    return re.search("authentication is off|webhooks are off", answer) is not None


def test_examples_replace_no_file_that_is_there(browser: ChromiumBrowser, stack: Stack) -> None:
    """What an example needs is made only where it is missing."""
    httpx.put(f"{stack.url}/files/demo/hello.txt", content=b"mine")
    open_docs(browser, stack)
    shown: Any = browser.run_script(SEND_ONE, "get /file/stream")
    assert shown.endswith("\n\nmine")
    httpx.delete(f"{stack.url}/files/demo/hello.txt")


def test_push_example_has_no_empty_id(browser: ChromiumBrowser, stack: Stack) -> None:
    open_docs(browser, stack)
    bodies: list[str] = browser.evaluate("return [...document.querySelectorAll('textarea')].map((one) => one.value)")
    pushes = [body for body in bodies if '"chat.said"' in body]
    assert len(pushes) == 3  # to a topic or all, to one sid, to a live stream
    assert not any('"id"' in body for body in pushes)


SEND_ONE = """
const [operation, done] = arguments;
const sections = [...document.querySelectorAll("details")];
const section = sections.find((one) => one.querySelector("summary").textContent.startsWith(operation));
section.querySelector("button").click();
const answer = section.querySelector("pre");
const timer = setInterval(() => {
  if (["", "…"].includes(answer.textContent)) return;
  clearInterval(timer);
  done(answer.textContent);
}, 10);
"""
