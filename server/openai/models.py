"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from typing import Any

from fastapi import APIRouter

from server.error_catalogue import MODEL_NOT_FOUND
from server.openai.errors import ApiError
from server.state import AppState, State

router = APIRouter()

MAX_NAME_SHOWN = 200


@router.get("/v1/models")
async def list_models(state: State) -> dict[str, Any]:
    """The one model this server has."""
    return {"object": "list", "data": [_card(state)]}


@router.get("/v1/models/{model_id:path}")
async def get_model(model_id: str, state: State) -> dict[str, Any]:
    """One model by its id."""
    check_model(state, model_id)
    return _card(state)


def check_model(state: AppState, name: str | None) -> None:
    """Refuse requests for another model; no name means the one that is served.

    Raises:
        ApiError: 404.
    """
    if name is not None and name != state.model_name:
        shown, served = repr(name[:MAX_NAME_SHOWN]), repr(state.model_name)
        raise ApiError.of(MODEL_NOT_FOUND, param="model", name=shown, served=served)


def _card(state: AppState) -> dict[str, Any]:
    info = state.client.info
    length = state.model_config.max_position_embeddings if info is None else info.max_model_len
    return {
        "id": state.model_name,
        "object": "model",
        "created": state.created,
        "owned_by": "loopserve",
        "max_model_len": length,
        "num_loops": state.model_config.loops.num_loops,
    }
