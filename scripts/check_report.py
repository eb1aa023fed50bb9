#!/usr/bin/env python3
"""Opens an HTML report in headless Chromium and checks it.

Fails on console messages and exceptions, on any request for another file or address, on a page that scrolls sideways, and where a figure
that the page shows (tables, charts, the line about a token) differs from the report's JSON. Needs chromium (Debian
package chromium); exit 77 without it. Screenshots go to --screenshots, if given.
"""
import argparse
import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# Width and height in CSS pixels, colour scheme.
VIEWS = {"light": (1200, 900, "light"), "dark": (1200, 900, "dark"), "phone": (390, 844, "light"),
         "phone_dark": (390, 844, "dark")}
FLAGS = ("--headless=new --no-sandbox --disable-gpu --no-first-run --disable-dev-shm-usage --disable-sync "
         "--disable-background-networking --disable-component-update --disable-extensions --remote-debugging-pipe")


class Browser:
    """One Chromium, spoken to over a pipe (DevTools protocol): a JSON message each way, ended by a zero byte."""

    def __init__(self, program, profile):
        commands, self.out = os.pipe()
        self.answers, results = os.pipe()
        script = f'exec "$0" {FLAGS} --user-data-dir="$1" about:blank 3<&{commands} 4>&{results}'
        self.process = subprocess.Popen(["sh", "-c", script, program, profile], pass_fds=(commands, results),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(results)
        self.buffer, self.events, self.session, self.n_sent = b"", [], None, 0
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def receive(self):
        while b"\0" not in self.buffer:
            chunk = os.read(self.answers, 1 << 20)
            if not chunk:
                raise RuntimeError("chromium ended")
            self.buffer += chunk
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def send(self, method, **parameters):
        self.n_sent += 1
        message = {"id": self.n_sent, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.n_sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, event):
        while not any(e.get("method") == event for e in self.events):
            self.events.append(self.receive())

    def evaluate(self, script):
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"].get("description", "exception"))
        return result["result"].get("value")

    def open(self, path, width, height, scheme):
        self.events.clear()
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("Page.loadEventFired")

    def screenshot(self, path, width):
        height = self.evaluate("document.documentElement.scrollHeight")
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=True,
                            clip={"x": 0, "y": 0, "width": width, "height": height, "scale": 1})
        path.write_bytes(base64.b64decode(picture["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait()


def complaints(events, address):
    """What the page logged, threw, or asked for besides itself."""
    found = []
    for event in events:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled":
            found.append(f"console: {parameters['args']}")
        elif method == "Runtime.exceptionThrown":
            found.append(f"exception: {parameters['exceptionDetails']}")
        elif method == "Log.entryAdded":
            found.append(f"log: {parameters['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if url != address and not url.startswith("data:"):
                found.append(f"request: {url}")
    return found


def at_path(report, path):
    for key in path.split("/")[1:]:
        report = report[int(key)] if isinstance(report, list) else report[key]
    return report


def wrong_figure(report, path, scale, text):
    """What is wrong with the figure `text`, which shows the value at `path` times `scale` with all its digits."""
    match = re.match(r"(-?[\d,]*\.?\d+)(e[+-]?\d+)?", text)
    if not match:
        return f"{path}: shows '{text}', no number"
    digits = match[1].replace(",", "")
    last_digit = 10.0 ** -len(digits.partition(".")[2]) * float("1" + (match[2] or ""))
    expected = at_path(report, path) * float(scale)
    if abs(float(digits + (match[2] or "")) - expected) > 0.5001 * last_digit:
        return f"{path}: shows '{text}', expected {expected}"
    return None


def check_figures(browser, report):
    figures = browser.evaluate(
        "[...document.querySelectorAll('[data-path]')].map(n => [n.dataset.path, n.dataset.scale, n.textContent])")
    wrong = [wrong_figure(report, *figure) for figure in figures]
    return [w for w in wrong if w], len(figures)


def check_charts(browser, report):
    wrong = []
    for chart, name in (("mass-chart", "kept_mass"), ("error-chart", "output_error")):
        shown = browser.evaluate(f"Chart.getChart('{chart}').data.datasets.map("
                                 "d => ({label: d.label, data: d.data.map(p => [p.x / 100, p.y / 100])}))")
        expected = [{"label": c["label"], "data": [[p["budget"], p[name]] for p in c["points"]
                                                    if name == "kept_mass" or p[name] > 0]} for c in report["curves"]]
        same = len(shown) == len(expected) and all(
            s["label"] == e["label"] and len(s["data"]) == len(e["data"]) and
            all(abs(a - b) <= 1e-12 * abs(b) for p, q in zip(s["data"], e["data"]) for a, b in zip(p, q))
            for s, e in zip(shown, expected))
        if not same:
            wrong.append(f"{chart}: its points differ from the JSON's curves")
    bars = browser.evaluate("Chart.getChart('size-chart').data.datasets[0].data")
    if bars != [b["n_clusters"] for b in report["cluster_sizes"]]:
        wrong.append("size-chart: its bars differ from the JSON's bins")
    return wrong


def check_text(browser, report):
    """Every question's colours and words, on a few tokens."""
    text, wrong = report["text"], []
    n = len(text["tokens"])
    for q, question in enumerate(report["questions"]):
        browser.evaluate(f"byId('question').value = {q}; byId('question').dispatchEvent(new Event('change'))")
        most = max(range(text["n_sinks"], n - text["n_window"]), key=lambda t: question["kept"][t])
        for token in (0, n // 2, most):
            browser.evaluate(f"document.querySelector('[data-token=\"{token}\"]').click()")
            line = browser.evaluate("byId('token-status').textContent")
            pinned = token < text["n_sinks"] or token >= n - text["n_window"]
            expected = "pinned" if pinned else f"read by {question['kept'][token]} of {question['n_lookups']} lookups"
            if expected not in line:
                wrong.append(f"token {token}, question {q}: shows '{line}', expected '{expected}'")
    shown = browser.evaluate("byId('text').textContent")
    if n <= 20000 and shown != "".join(t if text["kind"] == "text" else f"{t} " for t in text["tokens"]):
        wrong.append("the text differs from the JSON's tokens")
    return wrong


def check_heads(browser, report):
    """The heat maps of every curve's last setting."""
    wrong = []
    for c, curve in enumerate(report["curves"]):
        browser.evaluate(f"byId('curve').value = {c}; byId('curve').dispatchEvent(new Event('change'));"
                         f"byId('point').value = {len(curve['points']) - 1};"
                         "byId('point').dispatchEvent(new Event('change'))")
        wrong += check_figures(browser, report)[0]
    return wrong


def check_view(browser, path, report, view):
    width, height, scheme = VIEWS[view]
    browser.open(path, width, height, scheme)
    wrong, n_figures = check_figures(browser, report)
    wrong += check_charts(browser, report)
    if view == "light":  # what is chosen does not depend on the view
        wrong += check_heads(browser, report) + check_text(browser, report)
    if n_figures < 20:
        wrong.append(f"only {n_figures} figures are shown")
    if browser.evaluate(f"document.documentElement.scrollWidth > {width}"):
        wrong.append("the page scrolls sideways")
    return wrong + complaints(browser.events, path.resolve().as_uri())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=pathlib.Path, help="the HTML file")
    parser.add_argument("--json", type=pathlib.Path, help="what --json printed in the same run: must be the page's data")
    parser.add_argument("--screenshots", type=pathlib.Path, help="folder for a picture of each view")
    parser.add_argument("--max-bytes", type=int, default=3 << 20, help="fail if the file is larger (default 3 MiB)")
    options = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        print("check_report.py: skipped, no chromium here (Debian package chromium)")
        return 77
    page = options.report.read_text(encoding="utf-8")
    report = json.loads(re.search(r'id="report">(.*?)</script>', page, re.S)[1])
    wrong = []
    if options.json and json.loads(options.json.read_text(encoding="utf-8")) != report:
        wrong.append(f"{options.json}: differs from the page's data")
    if options.report.stat().st_size > options.max_bytes:
        wrong.append(f"{options.report}: {options.report.stat().st_size} bytes, more than {options.max_bytes}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            for view in VIEWS:
                wrong += [f"{view}: {w}" for w in check_view(browser, options.report, report, view)]
                if options.screenshots:
                    options.screenshots.mkdir(parents=True, exist_ok=True)
                    browser.open(options.report, *VIEWS[view])
                    browser.screenshot(options.screenshots / f"{view}.png", VIEWS[view][0])
        finally:
            browser.close()
    for line in wrong:
        print(line)
    if not wrong:
        print(f"{options.report}: every figure shown equals its JSON, in {len(VIEWS)} views")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
