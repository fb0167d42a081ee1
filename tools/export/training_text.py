"""What a model card tells of how its model was trained, for the card of a model that goes on from there."""

HEADING = "## Data and training"
END = "Exported by"
UNDIVIDED = "The undivided figures of this card are those of the fine-tuned weights."


def training_of(card: str) -> str:
    """The paragraphs on training in a model card, without its source and what holds for that card only.

    Nothing in a text that is no such card.
    """
    _, _, rest = card.partition(f"\n{HEADING}\n")
    told, end, _ = rest.partition(f"\n{END}\n")
    if not end:
        return ""
    kept = [part for part in told.strip().split("\n\n") if not part.startswith("Source: ")]
    return "\n\n".join(kept).removesuffix(UNDIVIDED).rstrip()


def history(card: str) -> str:
    """The text that comes before what training went on to do: Markdown, or nothing where a card tells nothing."""
    told = training_of(card)
    return (
        f"{told}\n\nWhat follows went on from the model folder that this left (tools.export.restore).\n" if told else ""
    )
