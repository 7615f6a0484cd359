"""What OAuth clients may read of this gateway before they have a token."""

from __future__ import annotations

from gateway.identity.algorithms import ALGORITHMS
from gateway.identity.settings import IdentitySettings
from gateway.identity.token_request import GRANT_TYPE


def protected_resource(settings: IdentitySettings, resource: str, *, mutual_tls: bool) -> dict[str, object]:
    """The protected resource metadata (RFC 9728 §2) of the gateway as a whole.

    `resource` is the gateway itself, which is an authorization server too: it exchanges tokens (RFC 8693).
    Issuers whose `iss` is no URL cannot be asked for anything and are left out; `mutual_tls` says whether
    agents can show a client certificate. Which scopes there are is the issuers' to say.
    """
    issuers = (issuer.iss for issuer in settings.issuers)
    servers = [iss for iss in (*issuers, resource) if iss.startswith(("https://", "http://"))]
    return {
        "resource": resource,
        "resource_name": "Passgate",
        "authorization_servers": list(dict.fromkeys(servers)),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
        "dpop_bound_access_tokens_required": settings.require_proof,
        "tls_client_certificate_bound_access_tokens": mutual_tls,
    }


def authorization_server(issuer: str, origin: str) -> dict[str, object]:
    """The metadata of the gateway as an authorization server (RFC 8414 §2): it exchanges tokens, and no more.

    `origin` is how the caller reaches it (`https://gateway.example`).
    """
    return {
        "issuer": issuer,
        "token_endpoint": f"{origin}/oauth/token",
        "jwks_uri": f"{origin}/.well-known/jwks.json",
        "response_types_supported": ["none"],  # required, though there is no authorization endpoint
        "grant_types_supported": [GRANT_TYPE],
        "token_endpoint_auth_methods_supported": ["none"],
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
    }
