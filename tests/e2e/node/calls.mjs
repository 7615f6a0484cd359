// The openai npm package with a base URL and a key alone, as OPENAI_BASE_URL and OPENAI_API_KEY give them.
// Each export is one thing that a program does; the one that the first argument names is done, and what came is
// printed as JSON. Tests judge it.
import OpenAI from "openai";

const model = "sim-small";
const messages = [{ role: "user", content: "What does a harbour pilot do?" }];
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

const scenes = {
  async chat(client) {
    const { data, response } = await client.chat.completions.create({ model, messages }).withResponse();
    return { data, cost: response.headers.get("gateway-cost-usd"), provider: response.headers.get("gateway-provider") };
  },

  async stream(client) {
    const whole = await client.chat.completions.create({ model, messages });
    const runs = [];
    for (const stream_options of [undefined, { include_usage: true }]) {
      let text = "";
      const usage = [];
      for await (const chunk of await client.chat.completions.create({ model, messages, stream: true, stream_options })) {
        text += chunk.choices[0]?.delta?.content ?? "";
        if (chunk.usage) usage.push(chunk.usage);
      }
      runs.push({ text, usage });
    }
    return { whole: { text: whole.choices[0].message.content, usage: whole.usage }, runs };
  },

  async tools(client) {
    const asked = [{ role: "user", content: "Please get weather for Lisbon." }];
    const first = await client.chat.completions.create({ model, messages: asked, tools: [weather] });
    const message = first.choices[0].message;
    const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "21 degrees and windy" };
    const second = await client.chat.completions.create({ model, messages: [...asked, message, result], tools: [weather] });
    const streamed = await client.chat.completions.stream({ model, messages: asked, tools: [weather] }).finalMessage();
    return { calls: message.tool_calls, streamed: streamed.tool_calls, answer: second.choices[0].message.content };
  },

  async errors(client) {
    const attempts = {
      policy: () => client.chat.completions.create({ model: "forbidden", messages }),
      unknown: () => client.chat.completions.create({ model: "gpt-nobody", messages }),
      forged: () => new OpenAI({ apiKey: "not-a-token" }).chat.completions.create({ model, messages }),
      limited: () => client.chat.completions.create({ model: "scripted-node-429", messages }, { maxRetries: 0 }),
      locked: () => client.chat.completions.create({ model: "scripted-node-401", messages }),
      broken: async () => {
        for await (const _ of await client.chat.completions.create({ model: "sim-cut-3", messages, stream: true }));
      },
    };
    const found = {};
    for (const [name, attempt] of Object.entries(attempts)) {
      try {
        found[name] = { answered: await attempt() };
      } catch (error) {
        const { status, code, message } = error;
        found[name] = { kind: error.constructor.name, status, code, message, retry: error.headers?.get("x-should-retry") };
      }
    }
    return found;
  },

  async models(client) {
    const listed = [];
    for await (const one of client.models.list()) listed.push(one.id);
    return { listed, retrieved: (await client.models.retrieve(model)).id };
  },
};

console.log(JSON.stringify(await scenes[process.argv[2]](new OpenAI())));
