"""A reranker inside a FastAPI application: pip install fastapi uvicorn

Start it with `uvicorn examples.fastapi_app:app`. It opens the model once, and answers from threads.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from edgerank import InputError, Reranker


class Search(BaseModel):
    query: str
    documents: Annotated[list[str], Field(max_length=200)]
    top_k: Annotated[int, Field(ge=1)] = 10


class Found(BaseModel):
    index: int
    score: float


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with Reranker() as app.state.reranker:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/search")
def search(asked: Search, request: Request) -> list[Found]:  # not async: FastAPI takes a thread
    reranker: Reranker = request.app.state.reranker
    try:
        hits = reranker.rank(asked.query, asked.documents, top_k=asked.top_k)
    except InputError as error:
        raise HTTPException(422, str(error)) from error
    return [Found(index=hit.index, score=hit.score) for hit in hits]
