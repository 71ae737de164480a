"""`python -m tests.support.stock_server`: one of our applications under stock uvicorn, without our connection classes.

STOCK_APP names its factory, STOCK_HTTP and STOCK_WS uvicorn's implementations (or a class, by its path).
"""

import os

import uvicorn

from services.common.settings import Settings

if __name__ == "__main__":
    settings = Settings()
    uvicorn.run(
        os.environ["STOCK_APP"],
        factory=True,
        host=settings.host,
        port=settings.port,
        http=os.environ["STOCK_HTTP"],
        ws=os.environ["STOCK_WS"],
        log_config=None,
        timeout_graceful_shutdown=2,
    )
