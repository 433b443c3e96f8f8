"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from typing import Any

from fastapi import APIRouter

from server.openai.errors import ApiError
from server.state import AppState, State

router = APIRouter()


@router.get("/v1/models")
async def list_models(state: State) -> dict[str, Any]:
    """The one model this server has."""
    return {"object": "list", "data": [_card(state)]}


@router.get("/v1/models/{model_id:path}")
async def get_model(model_id: str, state: State) -> dict[str, Any]:
    """One model by its id."""
    if model_id != state.model_name:
        raise ApiError(
            404, f"The model {model_id[:200]!r} does not exist.", param="model", code="model_not_found"
        )
    return _card(state)


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
