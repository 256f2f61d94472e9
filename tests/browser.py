"""A page in a real browser, where there is one."""

import shutil
import subprocess
from pathlib import Path

BROWSER = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
SCRIPT = """<script>addEventListener("load", () => {
    document.body.dataset.loaded = [...document.images].filter(image => image.complete && image.naturalWidth > 0).length;
    document.body.dataset.requests = performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length;
})</script>"""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
]


def seen_in_browser(page: str, folder: Path, *, pictures: int) -> None:
    """No console error, every picture loaded, no request leaves the page (its policy forbids any,
    and breaches are logged).
    """
    watched = page.replace(
        "style-src 'unsafe-inline'", "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    (folder / "page.html").write_text(watched.replace("</head>", f"{SCRIPT}</head>"))
    command = [
        str(BROWSER),
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=10000",
        "--dump-dom",
        f"file://{folder / 'page.html'}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert f'data-loaded="{pictures}"' in result.stdout
    assert 'data-requests="0"' in result.stdout
    assert [line for line in result.stderr.splitlines() if "CONSOLE" in line] == []
