"""What Flower takes for an object of a message, for the stores that keep its content."""


def check_object(object_id: str, content: bytes) -> None:
    """Raise ValueError where ``content`` does not have the hash ``object_id``, or not the form of Flower's objects."""
    from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError, get_object_id
    from flwr.supercore.inflatable.inflatable_utils import validate_object_content

    if get_object_id(content) != object_id:
        raise ValueError("an object that is not what its ID says")
    try:
        validate_object_content(content=content)
    except UnexpectedObjectContentError as flaw:
        raise ValueError(str(flaw)) from None
