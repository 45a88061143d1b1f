"""Query strings as lists of parameters, never decoded and never encoded anew."""

from __future__ import annotations

TRACKING_PREFIXES = ("utm_",)
"""Parameters that start like this only track visitors (Urchin and its heirs)."""

TRACKING_PARAMETERS = frozenset(
    {
        # Google Ads, Analytics, Merchant Center
        *("gclid", "gclsrc", "dclid", "gbraid", "wbraid", "_ga", "_gl", "srsltid"),
        # Meta, Microsoft, X, TikTok, LinkedIn, Pinterest, Yandex
        *("fbclid", "igshid", "igsh", "msclkid", "twclid", "ttclid", "li_fat_id", "epik", "yclid", "ysclid"),
        # Mailchimp, HubSpot, Marketo, Adobe, Omeda, Vero
        *("mc_cid", "mc_eid", "_hsenc", "_hsmi", "hsctatracking", "mkt_tok", "s_kwcid"),
        *("oly_anon_id", "oly_enc_id", "vero_id"),
    }
)
"""Further ones, in lower case; each is set by an advertising or mailing service, none chooses content."""


def is_tracking(parameter: str) -> bool:
    """Whether a parameter (`name=value`, as it stands in the query) only tracks; case does not matter."""
    name = parameter.partition("=")[0].lower()
    return name in TRACKING_PARAMETERS or name.startswith(TRACKING_PREFIXES)


def rewrite_query(query: str, *, drop_tracking: bool, sort: bool) -> str:
    """Drop and sort parameters, which `&` separates; those that stay are kept to the letter.

    Parameters
    ----------
    query : str
        Without the leading `?`.
    drop_tracking : bool
        Drop the parameters of `TRACKING_PARAMETERS` and `TRACKING_PREFIXES`; the others keep their order.
    sort : bool
        Sort by name; equal names keep their order, which servers use for lists.
    """
    parameters = query.split("&")
    if drop_tracking:
        parameters = [each for each in parameters if not is_tracking(each)]
    if sort:
        parameters.sort(key=_name)
    return "&".join(parameters)


def _name(parameter: str) -> str:
    return parameter.partition("=")[0]
