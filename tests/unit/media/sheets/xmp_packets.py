"""XMP as programs write it."""

from __future__ import annotations

from collections.abc import Sequence


def packet(description: str = "", title: str = "") -> bytes:
    """An XMP packet with these properties, each in two languages."""
    texts = {"title": title, "description": description}
    return properties(**{name: ("de=nicht dies", f"x-default={text}") for name, text in texts.items() if text})


def properties(**texts: Sequence[str]) -> bytes:
    """An XMP packet with these properties in this order, each with its languages and texts (``de=Boot``)."""
    fields = "".join(
        f"<dc:{name}><rdf:Alt>"
        + "".join('<rdf:li xml:lang="{}">{}</rdf:li>'.format(*text.split("=", 1)) for text in languages)
        + f"</rdf:Alt></dc:{name}>"
        for name, languages in texts.items()
    )
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="3">'
        f"<dc:subject><rdf:Bag><rdf:li>sea</rdf:li></rdf:Bag></dc:subject>{fields}</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    ).encode()
