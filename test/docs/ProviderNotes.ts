/** What docs/PROVIDERS.md says in words: facts that cannot be found by asking the code. */

/** Servers that speak OpenAI's protocol; `example` is a model to look up in the price catalogue. From their public documentation. */
export const servers: ReadonlyArray<{ readonly name: string; readonly baseUrl: string; readonly example?: string }> = [
  { name: "OpenAI", baseUrl: "https://api.openai.com/v1", example: "gpt-4o-mini" },
  { name: "Azure OpenAI", baseUrl: "https://RESOURCE.openai.azure.com/openai/v1", example: "gpt-4o-mini" },
  { name: "Groq", baseUrl: "https://api.groq.com/openai/v1", example: "llama-3.3-70b-versatile" },
  { name: "Mistral", baseUrl: "https://api.mistral.ai/v1", example: "mistral-large-latest" },
  { name: "OpenRouter", baseUrl: "https://openrouter.ai/api/v1", example: "openai/gpt-4o-mini" },
  { name: "DeepSeek", baseUrl: "https://api.deepseek.com/v1", example: "deepseek-chat" },
  { name: "Together", baseUrl: "https://api.together.xyz/v1", example: "meta-llama/Llama-3.3-70B-Instruct-Turbo" },
  {
    name: "Fireworks",
    baseUrl: "https://api.fireworks.ai/inference/v1",
    example: "accounts/fireworks/models/deepseek-v3p2"
  },
  { name: "xAI", baseUrl: "https://api.x.ai/v1", example: "grok-4" },
  {
    name: "Google Gemini",
    baseUrl: "https://generativelanguage.googleapis.com/v1beta/openai",
    example: "gemini-2.5-flash"
  },
  { name: "vLLM", baseUrl: "http://HOST:8000/v1" },
  { name: "LM Studio", baseUrl: "http://127.0.0.1:1234/v1" },
  { name: "llama.cpp's server", baseUrl: "http://HOST:8080/v1" }
]

export const notes = {
  head:
    `A provider is a configured instance of a provider plugin. Its slug is its name in model ids: \`groq::llama-3.3-70b-versatile\` is
the model \`llama-3.3-70b-versatile\` of the provider that the configuration calls \`groq\`. One plugin can serve many providers.

Tested end to end against servers that speak the providers' protocols from their documentation, and against recorded
exchanges. The tables below are worked out from the code.`,

  reading: `A request with one thing more than a plain one was given to the provider's codec.

- A name such as \`options.num_predict\` is where the thing stands in the provider's request. "yes" means in its messages.
- "refused" means \`validation_error\`, status 400, before anything is sent. The error names the field.
- "dropped" means that the provider has no form for it: the request goes out without it, and the answer names it in
  \`x-gateway-dropped-params\` (native: \`dropped_params\`).
- Nothing else is lost silently: the page cannot be written where a thing neither changes the request nor is refused or
  named.
- Names in \`dropped\` are the native API's; \`[]\` is any place in a list. Fields of another protocol are named so too, by the
  level at which they stood (\`foo\`, \`messages[].foo\`, \`messages[].content[].foo\`, \`tools[].foo\`); where a request has many,
  the first 24 are named and the rest is counted.

The tables show what can be sent, not what each model can do. That is checked before: see \`capability_not_supported\` in
[API.md](API.md#errors). Names of parts and parameters are the native API's.`,

  openai:
    `\`type: openai\` is for OpenAI and for every server that speaks its Chat Completions protocol. \`base_url\` includes the version, as in
OpenAI's SDKs. The key is sent as \`authorization: Bearer\`; a server that wants another header gets it through \`headers\`
(\`headers: { api-key: "\${AZURE_API_KEY}" }\`).

- Fields that the gateway does not know travel through unchanged, in both directions, when the caller speaks the OpenAI
  dialect too. Answers and stream events of such calls are handed on as they came.
- \`top_k\`, \`min_p\` and \`repetition_penalty\` are not OpenAI's. They are sent where the caller used them in the OpenAI
  dialect, and dropped for native callers.
- A streamed request always asks for usage; callers who did not ask for it do not see it.
- Media inside a tool's result goes into a user message behind the results, because OpenAI takes only text there.
- \`responses_api\` says which chats go to the server's Responses API instead: \`same_wire\` those of callers who speak it
  themselves (the default at OpenAI itself), \`always\` all, \`never\` none (the default elsewhere). Callers of the same protocol get
  answers and events as OpenAI sent them, with its own tools, and what they wrote goes out as it stood, but for \`store\`, which is
  false, and \`include\`, which asks models that think for \`reasoning.encrypted_content\`. Encrypted thinking can be read
  by the account alone that made it: a request that brings some back falls back to models of the same provider only.

The addresses are from the servers' public documentation. Of the hosted ones none was called to test this page; the last
column is worked out from the price catalogue.`,

  anthropic:
    `\`type: anthropic\` speaks the Messages API. \`base_url\` is without the version. The key is sent as \`x-api-key\`, with
\`anthropic-version: 2023-06-01\`. Betas ride in the native field \`extensions.anthropic.anthropic_beta\`.

- \`max_tokens\` is required there: where the request says nothing, it is the catalogue's limit of the model, else 8192.
- Structured output: models since Claude Opus 4.1 and the 4.5 generation get \`output_config.format\`; earlier ones are made to
  call a tool whose input is the answer, and the gateway gives that input back as text.
- Thinking: by budget on models before 4.6, adaptive with an effort from then on. It is left out, and named as dropped, where
  Anthropic would refuse it (a forced tool, a \`max_tokens\` of 1024 or less, a tool turn that came back without its thinking).
- \`user\` is sent as a hash, in \`metadata.user_id\`.
- System and developer messages go to \`system\`, in order. Neighbouring turns of one role become one. Tool results lead their
  turn. Tool call ids that Anthropic would refuse are rewritten, always in the same way.
- At most 4 cache breakpoints; a fifth is refused.`,

  ollama:
    `\`type: ollama\` speaks Ollama's own \`/api/chat\`. A key is not needed; one that is given is sent as \`authorization: Bearer\`.

- \`num_ctx\`: Ollama's context is often as small as 4096 tokens, and it cuts longer conversations silently. So the gateway
  estimates prompt and answer, and sets \`options.num_ctx\` where they may not fit: a power of two, at most the model's
  context window. A caller's own \`extensions.ollama.options.num_ctx\` wins.
- Images must be inline; Ollama fetches nothing.
- There is no \`tool_choice\`. \`none\` and \`allowed\` are done by leaving tools out; a forced call cannot be had, and is
  named as dropped.
- Discovery asks \`/api/tags\`, and \`/api/show\` for each model's capabilities and context window.
- There are no public prices. Configure \`models[].prices\` where you want a cost.`
}

export const sandboxNotes = {
  head:
    `\`type: sandbox\` needs no network and no key, and answers the same request always in the same way. It is for trying the gateway
out, and for testing applications: it fails, breaks off, goes silent and calls tools when told. Its prices are invented: 1 USD a
million tokens in, 2 out. A token is a word of at most 16 characters with the white space behind it.

It is told what to do by the model's name or by directives in the last user message; a directive wins. The tables are worked out
by running them. Numbers can be any: \`slow-250\`, \`fail-418\`, \`tokens-500-at-20\`. What discovery lists is one example of each family.`,
  tail:
    `Several directives can stand in one message. They are taken out of what \`echo\` repeats. After a tool's result has come
back, \`[[tool]]\` does nothing more, so that an agent's loop ends.

\`vision\` takes images, audio, video and documents, and says what it was given; the other models take text.

It honours \`n\`, \`stop\`, \`max_output_tokens\`, \`tools\`, \`tool_choice\`, \`parallel_tool_calls\` and \`response_schema\` (a made-up value
that fits the schema). It takes sampling parameters, \`seed\`, \`user\` and \`metadata\`, and they change nothing.`
}
