"""Task messages in their usual spelling, read in one go.

Whatever is out of the ordinary (tags, another serializer, fields of a newer release, mistakes) is left to the codec's
careful reader, which says what it is or what is wrong with it. Both give the same answer where this one gives any.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cloudq.message import Envelope
from cloudq.serializers import fields
from cloudq.serializers.tagged import may_be_tagged

_read = msgspec.json.Decoder(Envelope).decode
_put = msgspec.structs.force_setattr

#: Longest id, in characters, that is short enough however it is percent-encoded.
SHORT_ID: Final = fields.MAX_ID_BYTES // 9


def read(text: str, message_id: str, sent_at: float | None) -> Envelope | None:
    """The message, or None when it takes a careful reader. The last two stand in for what it does not say."""
    if may_be_tagged(text):
        return None
    try:
        envelope = _read(text)
        if not envelope.id:
            _put(envelope, "id", message_id)
        elif not _is_usual_id(envelope.id):
            return None
        if envelope.sent_at is not None:
            sent_at = fields.read_moment(envelope.sent_at, "sent_at")
        _put(envelope, "sent_at", sent_at)
        if envelope.eta is not None:
            _put(envelope, "eta", fields.read_moment(envelope.eta, "eta"))
        if envelope.expires is not None:
            _put(envelope, "expires", fields.read_moment(envelope.expires, "expires"))
        if envelope.group is not None and not (envelope.group.id and _is_usual_id(envelope.group.id)):
            return None
        if envelope.chord is not None or envelope.chain or envelope.link or envelope.link_error:
            _check_signatures(envelope)
    except (msgspec.MsgspecError, fields.Fault, ValueError, RecursionError):
        return None
    return envelope


def _is_usual_id(value: str) -> bool:
    return len(value) <= SHORT_ID and value != "." and value != ".."


def _check_signatures(envelope: Envelope) -> None:
    """Raises Fault."""
    for each in (*envelope.chain, *envelope.link, *envelope.link_error):
        fields.check_signature(each, "")
    if envelope.chord is not None:
        fields.check_signature(envelope.chord, "")
