"""Writes tests/golden/chat.json: conversations rendered by the families' own chat
templates, in Jinja as transformers runs it.  Run by hand; the output is committed.

    python tests/golden/chat.py tests/golden/chat.json

Needs jinja2.  The templates are those of the models named beside them.
"""
import json
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = {
    # many models of the hub, "chatml" of TRL
    'chatml': "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    # Llama-2-chat
    'llama2': "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    # Meta-Llama-3
    'llama3': "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    # Mistral-7B-Instruct-v0.2
    'mistral': "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    # zephyr, TinyLlama-Chat
    'zephyr': "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    # gemma-2-it
    'gemma': "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    # Phi-3-mini-instruct
    'phi3': "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    # Alpaca's prompt without input, as a template; one question
    'alpaca': "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% set rest = messages[1:] %}{% else %}{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the request.' }}{% set rest = messages %}{% endif %}{% for message in rest %}{% if message['role'] == 'user' %}{{ '\n\n### Instruction:\n' + message['content'] }}{% else %}{{ '\n\n### Response:\n' + message['content'] + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '\n\n### Response:\n' }}{% endif %}",
}
SYSTEM = {'role': 'system', 'content': ' Be brief.\n'}


def turns(*texts):
    return [{'role': ('user', 'assistant')[i % 2], 'content': t}
            for i, t in enumerate(texts)]


CASES = [
    turns('Who are you?', 'A model.'),
    turns(' spaces around \n', '\n and here\t'),
    turns('one', 'two', 'three', 'four <|im_end|> </s> [INST]'),
    turns('', 'nothing was asked'),
    [SYSTEM] + turns('Who?', 'Me.'),
    [SYSTEM] + turns('  a ', ' b ', 'c', 'd'),
    turns('caf\u00e9 \U0001f642 \u2581', '\u4e2d\u6587'),
    turns('only asked'),
    [SYSTEM] + turns('only asked'),
    turns('a', 'b', 'asked again'),
]


def fail(message):
    raise ValueError(message)


def main(path):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.globals['raise_exception'] = fail
    out = {}
    for name, source in TEMPLATES.items():
        template = env.from_string(source)
        out[name] = {'template': source, 'cases': []}
        for messages in CASES:
            for ask in (False, True):
                if ask != (messages[-1]['role'] == 'user'):
                    continue
                try:
                    text = template.render(messages=messages, bos_token='<s>',
                                           eos_token='</s>',
                                           add_generation_prompt=ask)
                except ValueError:
                    text = None
                out[name]['cases'].append(
                    {'messages': messages, 'ask': ask, 'text': text})
    with open(path, 'w') as f:
        json.dump(out, f, ensure_ascii=False, indent=0)
        f.write('\n')


main(sys.argv[1])
