"""Opens a page in a headless Chromium and says what it did there, as JSON.

    chromium.py PAGE SCRIPT [PICTURES]

SCRIPT is evaluated in the page, and its value is `value`. `errors` has every exception, every
message of an error, every breach of the page's policy and everything that it tried to fetch.
PICTURES is a folder for what it looks like. Speaks the DevTools protocol over a pipe.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile


class Chromium:
    def __init__(self, folder):
        down, self.to = os.pipe()
        self.out, up = os.pipe()

        def wire():
            # Chromium reads from 3 and writes to 4; either may be one of ours.
            a, b = os.dup(down), os.dup(up)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-dev-shm-usage",
             f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=wire)
        os.close(down)
        os.close(up)
        self.rest = b""
        self.number = 0
        self.events = []

    def message(self):
        while b"\0" not in self.rest:
            read = os.read(self.out, 1 << 20)
            if not read:
                raise SystemExit("chromium has ended")
            self.rest += read
        line, self.rest = self.rest.split(b"\0", 1)
        return json.loads(line)

    def ask(self, method, session=None, **params):
        self.number += 1
        number = self.number
        request = {"id": number, "method": method, "params": params}
        if session:
            request["sessionId"] = session
        os.write(self.to, json.dumps(request).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == number:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def until(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.message())


def main():
    page, script = sys.argv[1:3]
    pictures = sys.argv[3] if len(sys.argv) > 3 else None
    address = page if "://" in page else "file://" + os.path.abspath(page)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Chromium(folder)
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Runtime", "Log", "Page", "Network"]:
            browser.ask(f"{domain}.enable", session)
        browser.ask("Page.navigate", session, url=address)
        browser.until("Page.loadEventFired")
        said = browser.ask("Runtime.evaluate", session, expression=script, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in said:
            raise SystemExit(json.dumps(said["exceptionDetails"]))
        for name, width, scheme in [("light", 1100, "light"), ("dark", 1100, "dark"),
                                    ("narrow", 360, "light")] if pictures else []:
            browser.ask("Emulation.setEmulatedMedia", session,
                        features=[{"name": "prefers-color-scheme", "value": scheme}])
            browser.ask("Emulation.setDeviceMetricsOverride", session, width=width, height=800,
                        deviceScaleFactor=1, mobile=width < 500)
            shot = browser.ask("Page.captureScreenshot", session, captureBeyondViewport=True)
            with open(os.path.join(pictures, f"{name}.png"), "wb") as file:
                file.write(base64.b64decode(shot["data"]))
        # As wide as a phone: nothing but boxes that scroll by themselves may be wider.
        browser.ask("Emulation.setDeviceMetricsOverride", session, width=360, height=640,
                    deviceScaleFactor=1, mobile=True)
        wide = browser.ask("Runtime.evaluate", session, returnByValue=True,
                           expression="document.documentElement.scrollWidth")["result"]["value"]
        errors, asked = [], []
        for event in browser.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                errors.append(params["exceptionDetails"])
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                errors.append(params["entry"])
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                errors.append(params["args"])
            elif method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if url != address:
                    asked.append(url)
        browser.ask("Browser.close")
        browser.process.wait(20)
    json.dump({"value": said["result"].get("value"), "errors": errors, "asked": asked,
               "width_at_360": wide}, sys.stdout)


main()
