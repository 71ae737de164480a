"""Authorises requests: finds the identity, and compares its rights with the rule of the route. The one place that refuses.

It is asked before every way in to a service, and reads method, path and query as the handlers read them.
"""

from collections.abc import Callable

from services.common.asgi import Scope
from services.common.auth.authenticator import Authenticator
from services.common.auth.credentials import find_link, find_token
from services.common.auth.identity import SCOPE_KEY, Identity
from services.common.auth.keys import UnknownKey
from services.common.auth.link_authenticator import LinkAuthenticator
from services.common.auth.rights import Verb, scope_word
from services.common.auth.route_rules import Rule, RuleTable, Source
from services.common.auth.sids import SidSigner
from services.common.errors import BadRequest, GridcastError, InsufficientScope, InvalidLink, Unauthorized
from services.common.http.query import parse_query
from services.common.live.addresses import parse_live_address
from services.common.media import validate_folder
from services.common.media_address import parse_address
from services.common.media_path import PATH_PREFIX, parse_media_path
from services.common.web.active_requests import ActiveRequests

FolderReader = Callable[[Scope], str | None]
"""Returns the folder that the header fields of a request name, normalised; None where they name none. Raises BadRequest."""


class Authorization:
    """The authorisation of one service.

    Arguments:
        authenticator: finds identities.
        rules: of the routes of the service.
        sids: recognises the sids of a subject.
        tus_folder: reads Upload-Metadata; None in services without such a route.
        active_requests: the requests in progress, which end when their token or link is revoked.
        links: verifies signed links; None in services that accept none.

    """

    def __init__(
        self,
        authenticator: Authenticator,
        rules: RuleTable,
        sids: SidSigner,
        tus_folder: FolderReader | None = None,
        active_requests: ActiveRequests | None = None,
        links: LinkAuthenticator | None = None,
    ) -> None:
        self.active_requests = active_requests or ActiveRequests(authenticator.check_revoked)
        self._authenticator = authenticator
        self._rules = rules
        self._sids = sids
        self._tus_folder = tus_folder
        self._links = links

    def authorize_now(self, scope: Scope) -> None:
        """Authorise a request with what is in memory, and put its identity into the scope.

        Raises Unauthorized, Forbidden, InvalidLink, BadRequest, NotFound and MethodNotAllowed; UnknownKey where `authorize` must be
        awaited.
        """
        rule = self._rules.match(scope["method"], scope["path"])
        if rule.verb is None:
            return
        if (link := find_link(scope["query_string"])) is not None:
            scope[SCOPE_KEY] = self._authorize_link(rule, link, scope)
        else:
            identity = self._authenticator.authenticate(find_token(scope["headers"]))
            self._judge(rule, rule.verb, identity, scope)
            scope[SCOPE_KEY] = identity

    def _authorize_link(self, rule: Rule, text: str, scope: Scope) -> Identity:
        """Return the identity of a link. Raises InvalidLink where it is not for this request, BadRequest beside a token."""
        if any(name == b"authorization" for name, _ in scope["headers"]):
            raise BadRequest("there is more than one credential: send a token or a link")
        if self._links is None:
            raise InvalidLink("links are not accepted here")
        identity = self._links.authenticate(text)
        link = identity.link
        if link is None or rule.link != link.kind:
            raise InvalidLink("it is not for this route")
        if rule.source is Source.ADDRESS and parse_address(scope) != link.name:
            raise InvalidLink("it is for another file")
        if rule.source is Source.STREAM and (
            (address := parse_live_address(scope["path"])) is None or address.stream_id != link.version
        ):
            raise InvalidLink("it is for another stream")
        return identity

    async def authorize(self, scope: Scope) -> None:
        """Do the same, and fetch newer keys where the token's key is unknown. Raises no UnknownKey."""
        try:
            self.authorize_now(scope)
        except UnknownKey:
            await self._authenticator.authenticate_or_fetch(find_token(scope["headers"]))
            self.authorize_now(scope)

    def _judge(self, rule: Rule, verb: Verb, identity: Identity, scope: Scope) -> None:
        """Raise where the identity lacks the right. Nothing is looked up, and no body is read."""
        rights = identity.rights
        if rights.may_everywhere(verb):
            return
        if rule.source is Source.SOCKET:
            if not self._sids.is_owner(identity.subject, scope["path"].split("/")[2]):
                raise missing_right(identity, verb)
        elif not rights.may_somewhere(verb):
            raise missing_right(identity, verb)
        elif rule.source is Source.TOPIC:
            topic = parse_query(scope["query_string"]).get("topic")
            if topic is None or not rights.may_topic(verb, topic):
                raise missing_right(identity, verb, topic)
        elif rule.source not in {Source.ANY, Source.STREAM}:
            folder = self._folder(rule.source, scope)
            if folder is not None and not rights.may_folder(verb, folder):
                raise missing_right(identity, verb, folder)

    def _folder(self, source: Source, scope: Scope) -> str | None:
        """Return the folder that a request is about, None where its handler has to choose. Raises BadRequest."""
        if source is Source.TUS_METADATA:
            if self._tus_folder is None:
                raise RuntimeError("this service has no reader of Upload-Metadata")
            return self._tus_folder(scope)
        if source is Source.ADDRESS and scope["path"].startswith(PATH_PREFIX):
            return parse_media_path(scope["raw_path"].decode("ascii")).folder
        folder = parse_query(scope["query_string"]).get("folder")
        if folder is not None:
            return validate_folder(folder)
        if source is Source.FORM:
            raise BadRequest("a token that is limited to folders must name the folder in the query: ?folder=")
        return None if source is Source.LIST else ""


def missing_right(identity: Identity, verb: Verb, pattern: str | None = None) -> GridcastError:
    """Return the refusal of a right: 401 for a caller without a token, 403 for others."""
    if identity.is_anonymous:
        return Unauthorized("this needs a token: Authorization: Bearer TOKEN")
    return InsufficientScope(scope_word(verb, pattern))
