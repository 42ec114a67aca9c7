"""Errors that have an answer of their own, in vLLM's shape."""


class ApiError(Exception):
    """A request that is answered with an error object; ``kind`` is vLLM's ``type``."""

    def __init__(self, status: int, kind: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param


def bad_request(message: str, *, param: str | None = None) -> ApiError:
    """A body or a header that cannot be used."""
    return ApiError(400, "BadRequestError", message, param=param)


def model_not_found(model: str) -> ApiError:
    """A model that this worker does not serve."""
    return ApiError(404, "NotFoundError", f"The model `{model}` does not exist.", param="model")


def body_too_large(limit: int) -> ApiError:
    """A body over ``max_body_bytes``."""
    return ApiError(413, "BadRequestError", f"The body is larger than {limit} bytes.")


def internal() -> ApiError:
    """A fault of our own."""
    return ApiError(500, "InternalServerError", "Internal server error.")


def deliberate(status: int) -> ApiError:
    """The error that the worker was told to answer."""
    return ApiError(status, "InternalServerError", "This worker was told to fail.")
