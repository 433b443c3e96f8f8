"""All OpenAI-compatible routes."""

from fastapi import APIRouter

from server.openai import chat, completions, fim_completions, infill, models, render, responses, tokenize

router = APIRouter()
for module in (completions, chat, responses, fim_completions, infill, models, render, tokenize):
    router.include_router(module.router)
