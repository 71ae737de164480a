"""An example of a service of one's own: tells browsers that an invoice was paid.

python billing.py NUMBER [SID]

Pushes to all, to the subscribers of the topic `news`, and to one sid if it is given; prints each result. The Redis URL comes from
the file that REDIS_URL_FILE names, or from REDIS_URL.
"""

import asyncio
import os
import sys
from pathlib import Path

from gridcast.publish import Publisher, PublishError


async def push(redis_url: str, number: int, sid: str | None) -> None:
    """Push the events of one paid invoice. Raises PublishError."""
    async with Publisher.from_url(redis_url, source="/billing") as publisher:
        print(await publisher.broadcast("invoice.paid", {"number": number}))
        print(await publisher.publish("news", "invoice.news", {"number": number}))
        if sid is not None:
            print(await publisher.send(sid, "invoice.yours", {"number": number}))


def main() -> int:
    """Run the command line. Returns 1 if Redis is unavailable or denies the push."""
    path = os.environ.get("REDIS_URL_FILE")
    redis_url = Path(path).read_text("utf-8").strip() if path else os.environ["REDIS_URL"]
    try:
        asyncio.run(push(redis_url, int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
    except PublishError as error:
        print(f"billing: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
