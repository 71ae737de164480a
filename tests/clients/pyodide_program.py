"""Every module of the wheel, the help of the command, and a webhook that is verified; warnings are errors."""

import base64
import contextlib
import hashlib
import hmac
import importlib
import io
import pkgutil
import sys
import time
import warnings

sys.path.insert(0, "/site")
warnings.simplefilter("error")

import gridcast  # noqa: E402  # the wheel is where the line above says
from gridcast import webhooks  # noqa: E402
from gridcast.cli import main  # noqa: E402

for name in gridcast.__all__:
    getattr(gridcast, name)
modules = []
for module in pkgutil.walk_packages(gridcast.__path__, "gridcast."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert error.name == "redis", error  # noqa: PT017  # of the extra that is not installed here
    else:
        modules.append(module.name)

key = b"0123456789abcdef0123456789abcdef"
body, now = b'{"type": "file.created", "source": "/gridcast"}', int(time.time())
signature = base64.b64encode(hmac.digest(key, b"m1.%d.%s" % (now, body), hashlib.sha256)).decode()
fields = {"Webhook-Id": "m1", "Webhook-Timestamp": str(now), "Webhook-Signature": f"v1,{signature}"}
event = webhooks.verify(body, fields, "whsec_" + base64.b64encode(key).decode())

sys.argv = ["gridcast", "--help"]
printed = io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
    main()
assert "Upload files, folders, or standard input." in printed.getvalue(), printed.getvalue()
print(sys.implementation.name, *sys.version_info[:2], len(modules), event.type)
