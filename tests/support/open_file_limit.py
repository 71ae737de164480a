"""The limit of open files of the test process itself, for tests and benchmarks that hold thousands of connections."""

import resource


def raise_open_file_limit(count: int) -> None:
    """Let this process, and those that it starts from now on, open `count` files.

    Raises RuntimeError where the hard limit (ulimit -Hn) is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (count, hard if hard == resource.RLIM_INFINITY else max(hard, count))
        )
    except ValueError:
        raise RuntimeError(f"{count} open files are needed, and at most {hard} are allowed (ulimit -Hn)") from None
