"""services.common.http.content_coding: only the identity coding is accepted."""

import pytest

from services.common.errors import UnsupportedMediaType
from services.common.http.content_coding import require_identity_coding


@pytest.mark.parametrize("values", [[], [b""], [b"identity"], [b"Identity ,identity"], [b"identity", b" , "]])
def test_identity(values: list[bytes]) -> None:
    require_identity_coding([(b"host", b"gzip"), *((b"content-encoding", value) for value in values)])


@pytest.mark.parametrize(
    "values", [[b"gzip"], [b"identity, br"], [b"identity", b"zstd"], [b"aws-chunked"], [b"identity;q=1"], [b"\xff"]]
)
def test_other_codings_are_refused_and_the_response_names_what_is_accepted(values: list[bytes]) -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        require_identity_coding([(b"content-encoding", value) for value in values])
    assert refused.value.headers == {"accept-encoding": "identity"}
