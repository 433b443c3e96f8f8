"""All OpenAI-compatible routes."""

from fastapi import APIRouter

from server.openai import chat, completions, models, responses, tokenize

router = APIRouter()
for module in (completions, chat, responses, models, tokenize):
    router.include_router(module.router)
