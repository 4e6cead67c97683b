/** The end of a streamed answer: whoever ends it, what the request consumed is written down once, and before the reader knows. */
import { Cause, Effect, Exit, Scope, Stream } from "effect"
import type { GatewayError } from "../sdk/GatewayError.ts"
import type { ChunkPull } from "./ChunkPull.ts"

/** Writes down how a request ended. */
export type Finish = (exit: Exit.Exit<void, GatewayError>) => Effect.Effect<void, GatewayError>

/** Runs `finish` the first time that it is asked to, and not again. */
export const once = (finish: Finish): Finish => {
  let isOver = false
  return (exit) =>
    Effect.suspend(() => {
      if (isOver) return Effect.void
      isOver = true
      return Effect.uninterruptible(finish(exit))
    })
}

/**
 * Runs `finish` with a stream's end or its failure before the reader is told of it, so that the reader may rely on what was
 * written down; or when the reader leaves.
 */
export const finishing = <Chunk>(
  finish: Finish,
  chunks: Stream.Stream<Chunk, GatewayError>
): Stream.Stream<Chunk, GatewayError> =>
  Stream.transformPull(chunks, (pull, scope) => {
    const watched: ChunkPull<GatewayError, Chunk> = Effect.catch(
      pull,
      (error) =>
        Cause.isDone(error)
          ? Effect.andThen(finish(Exit.void), Cause.done())
          : Effect.andThen(finish(Exit.fail(error)), Effect.fail(error))
    )
    return Effect.as(
      Scope.addFinalizerExit(
        scope,
        (exit) => Effect.ignore(finish(Exit.isSuccess(exit) ? Exit.void : Exit.interrupt()))
      ),
      watched
    )
  })
