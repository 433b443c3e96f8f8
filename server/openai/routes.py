"""All OpenAI-compatible routes."""

from fastapi import APIRouter

from server.openai import chat, completions, models, tokenize

router = APIRouter()
for module in (completions, chat, models, tokenize):
    router.include_router(module.router)
