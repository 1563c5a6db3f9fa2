"""Writes demo.jsonl, and counts how many of its questions a batch's output file answers rightly.

    python examples/make_demo.py                       write examples/demo.jsonl
    python examples/make_demo.py score OUTPUT.jsonl    right answers by kind

The questions are of kinds that a model of 135 million parameters does well, and how they are put matters at that size:
of a dozen ways to ask for a review's sentiment the one below was right most often, and examples in the prompt mostly
hurt. Capitals and opposites are ones that the model knows; of any others it knows about four in five.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "SmolLM2-135M-Instruct"
DEMO = Path(__file__).parent / "demo.jsonl"

Message = dict[str, str]


@dataclass(frozen=True)
class Question:
    """One line of the batch, and what a right answer is: these JSON fields, or this word in a free answer."""

    messages: list[Message]
    answer: dict[str, Any] | str
    schema: dict[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        """The body of a chat completion request."""
        body: dict[str, Any] = {"model": MODEL, "messages": self.messages, "temperature": 0}
        if self.schema is None:
            return body | {"max_tokens": 16, "stop": ["."]}
        response_format = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": self.schema},
        }
        return body | {"max_tokens": 48, "response_format": response_format}

    def is_right(self, content: str) -> bool:
        """Whether a model's answer is the right one."""
        if isinstance(self.answer, str):
            return self.answer.lower() in content.lower()
        try:
            return bool(json.loads(content) == self.answer)
        except json.JSONDecodeError:
            return False


def fields(**properties: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with just these fields."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def user(text: str) -> Message:
    """A message of the user's."""
    return {"role": "user", "content": text}


def system(text: str) -> Message:
    """A message that says what is to be done."""
    return {"role": "system", "content": text}


def review(text: str, sentiment: str) -> Question:
    """A review to call positive or negative."""
    prompt = f"What is the sentiment of this review, positive or negative?\n\n{text}"
    schema = fields(sentiment={"type": "string", "enum": ["positive", "negative"]})
    return Question([user(prompt)], {"sentiment": sentiment}, schema)


def person(text: str, name: str, city: str) -> Question:
    """A sentence to take a name and a city from."""
    schema = fields(name={"type": "string"}, city={"type": "string"})
    task = system("Give the person's name and the city in the sentence as JSON.")
    return Question([task, user(text)], {"name": name, "city": city}, schema)


def weather(text: str, city: str, degrees: int) -> Question:
    """A weather report to take a city and a temperature from."""
    schema = fields(city={"type": "string"}, degrees={"type": "integer"})
    task = system("Give the city and the temperature in degrees as JSON.")
    return Question([task, user(text)], {"city": city, "degrees": degrees}, schema)


def topic(text: str, label: str) -> Question:
    """A sentence to sort into one of four topics: the one kind that examples help with."""
    examples = [
        ("The team lost by three goals.", "sport"),
        ("Clouds and light rain in the afternoon.", "weather"),
        ("She plays the guitar in a jazz club.", "music"),
        ("Cook the pasta in salted water.", "food"),
    ]
    messages = [system("Give the topic of the sentence: sport, food, weather or music.")]
    for sentence, its_topic in examples:
        messages += [user(sentence), {"role": "assistant", "content": json.dumps({"topic": its_topic})}]
    schema = fields(topic={"type": "string", "enum": ["sport", "food", "weather", "music"]})
    return Question([*messages, user(text)], {"topic": label}, schema)


def capital(country: str, city: str) -> Question:
    """A country to name the capital of, in free text."""
    return Question([user(f"What is the capital of {country}?")], city)


def opposite(word: str, other: str) -> Question:
    """A word to name the opposite of, in free text."""
    return Question([user(f"What is the opposite of {word}?")], other)


QUESTIONS: dict[str, tuple[Callable[..., Question], list[tuple[Any, ...]]]] = {
    "review": (
        review,
        [
            ("A wonderful film. I laughed, I cried and I would watch it again tomorrow.", "positive"),
            ("Boring from start to finish. I walked out after an hour.", "negative"),
            ("The headphones sound fantastic and the battery lasts for days.", "positive"),
            ("It broke after two days and nobody answered my emails.", "negative"),
            ("Best pizza in town, and the staff are so friendly.", "positive"),
            ("The room was dirty and the shower was cold. Never again.", "negative"),
            ("A gripping story with brilliant acting. I loved every minute.", "positive"),
            ("Terrible plot, worse dialogue. A complete waste of money.", "negative"),
            ("These shoes are comfortable and look great. I am very happy with them.", "positive"),
            ("The zip broke on the first day. Very poor quality.", "negative"),
            ("My children adore this book. We read it every night.", "positive"),
            ("The food was cold and the waiter was rude.", "negative"),
            ("Fast delivery and a perfect fit. I highly recommend this jacket.", "positive"),
            ("I regret buying this phone. It is slow and it keeps crashing.", "negative"),
            ("A beautiful hotel with a lovely view and a delicious breakfast.", "positive"),
            ("The worst concert I have ever been to. The sound was awful.", "negative"),
            ("This blender is excellent. It is quiet, quick and easy to clean.", "positive"),
            ("The chair wobbles and the paint is already coming off. Disappointing.", "negative"),
            ("An amazing game. My friends and I cannot stop playing it.", "positive"),
            ("The app is full of bugs and it lost all my photos. I hate it.", "negative"),
            ("The new camera takes superb pictures, even at night.", "positive"),
            ("This was a dull and pointless sequel. I fell asleep.", "negative"),
            ("Great value for money. I bought a second one for my mother.", "positive"),
            ("The soup was tasteless and far too expensive.", "negative"),
            ("A warm and clever comedy. The whole family enjoyed it.", "positive"),
            ("The kettle leaks and takes ages to boil. Awful.", "negative"),
            ("The best coffee I have had in years, and lovely cakes too.", "positive"),
            ("Two hours of my life that I will never get back.", "negative"),
            ("My new bike is light, fast and a joy to ride.", "positive"),
            ("The hotel lost our booking and did not even apologise.", "negative"),
            ("Superb service. They repaired my laptop in an hour.", "positive"),
            ("The tent let in water on the first night. Very disappointing.", "negative"),
            ("A thrilling book. I could not put it down.", "positive"),
            ("The soap gave me a rash. I threw it away.", "negative"),
            ("Excellent trousers: soft, strong and well made.", "positive"),
            ("The train was late, crowded and filthy.", "negative"),
        ],
    ),
    "person": (
        person,
        [
            ("Maria moved to Lisbon last summer to study music.", "Maria", "Lisbon"),
            ("Last week Tom flew to Chicago for a wedding.", "Tom", "Chicago"),
            ("Our colleague Aisha works from the office in Nairobi.", "Aisha", "Nairobi"),
            ("Peter opened a small bakery in Vienna.", "Peter", "Vienna"),
            ("In Oslo, Ingrid teaches mathematics at a primary school.", "Ingrid", "Oslo"),
            ("Carlos was born in Madrid and still lives there.", "Carlos", "Madrid"),
            ("After ten years in Tokyo, Kenji bought his first car.", "Kenji", "Tokyo"),
            ("Emma sent us a postcard from Rome.", "Emma", "Rome"),
            ("The doctor in Boston is called Linda.", "Linda", "Boston"),
            ("Yesterday David drove to Dublin to meet his brother.", "David", "Dublin"),
            ("Sofia plays the violin in an orchestra in Prague.", "Sofia", "Prague"),
            ("Ahmed runs a bookshop in Cairo.", "Ahmed", "Cairo"),
            ("Julia studies law in Berlin.", "Julia", "Berlin"),
            ("Lucas is a chef at a hotel in Paris.", "Lucas", "Paris"),
            ("Anna visited her aunt in Warsaw in March.", "Anna", "Warsaw"),
            ("Sam paints houses in Seattle.", "Sam", "Seattle"),
            ("Nina wrote her first novel in Athens.", "Nina", "Athens"),
            ("George drives a bus in London.", "George", "London"),
            ("My neighbour Hanna has a flat in Munich.", "Hanna", "Munich"),
            ("Oscar landed in Toronto at noon.", "Oscar", "Toronto"),
        ],
    ),
    "weather": (
        weather,
        [
            ("It is 21 degrees in Lisbon today.", "Lisbon", 21),
            ("Tonight Oslo will have 3 degrees and clear skies.", "Oslo", 3),
            ("A warm day in Cairo, with 34 degrees at noon.", "Cairo", 34),
            ("In Berlin it rains, at 14 degrees.", "Berlin", 14),
            ("Madrid expects sun and 29 degrees.", "Madrid", 29),
            ("Dublin stays cool at 11 degrees.", "Dublin", 11),
            ("Fog in London this morning, 8 degrees.", "London", 8),
            ("In Rome the afternoon reaches 26 degrees.", "Rome", 26),
            ("Snow in Helsinki, and only 1 degree.", "Helsinki", 1),
            ("Athens will be hot tomorrow: 37 degrees.", "Athens", 37),
            ("A mild evening in Paris with 17 degrees.", "Paris", 17),
            ("Strong wind in Chicago, 6 degrees.", "Chicago", 6),
            ("At 31 degrees, Bangkok is humid today.", "Bangkok", 31),
            ("Vienna wakes up to 12 degrees and drizzle.", "Vienna", 12),
        ],
    ),
    "topic": (
        topic,
        [
            ("The striker scored twice in the final and lifted the cup.", "sport"),
            ("Bake the bread for forty minutes until the crust is brown.", "food"),
            ("Heavy rain and strong wind are expected on Friday.", "weather"),
            ("The orchestra played two symphonies by Mozart.", "music"),
            ("She won the tennis match in three sets.", "sport"),
            ("Add two eggs, a cup of flour and a pinch of salt.", "food"),
            ("It will be sunny in the morning, with snow in the evening.", "weather"),
            ("The band released a new album with twelve songs.", "music"),
            ("The marathon runner broke the world record.", "sport"),
            ("The soup tastes better with fresh basil and garlic.", "food"),
            ("A storm is moving towards the coast and the temperature will fall.", "weather"),
            ("He practises the piano for an hour every day.", "music"),
        ],
    ),
    "capital": (
        capital,
        [
            ("France", "Paris"),
            ("Italy", "Rome"),
            ("Japan", "Tokyo"),
            ("Germany", "Berlin"),
            ("Egypt", "Cairo"),
            ("Greece", "Athens"),
            ("Ireland", "Dublin"),
            ("Poland", "Warsaw"),
            ("Hungary", "Budapest"),
            ("Norway", "Oslo"),
        ],
    ),
    "opposite": (
        opposite,
        [
            ("hot", "cold"),
            ("big", "small"),
            ("day", "night"),
            ("fast", "slow"),
            ("happy", "sad"),
            ("wet", "dry"),
            ("early", "late"),
            ("black", "white"),
        ],
    ),
}


def questions() -> dict[str, Question]:
    """Every question by its custom_id, such as `review-001`."""
    return {
        f"{kind}-{number:03}": make(*row)
        for kind, (make, rows) in QUESTIONS.items()
        for number, row in enumerate(rows, start=1)
    }


def write() -> None:
    """Writes demo.jsonl in the form that OpenAI's batch API takes."""
    with DEMO.open("w", encoding="utf-8") as file:
        for custom_id, question in questions().items():
            line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": question.body()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def score(output: Path) -> None:
    """Prints how many answers of each kind in a batch's output file are right, and those that are wrong."""
    asked = questions()
    right: Counter[str] = Counter()
    total = Counter(custom_id.split("-")[0] for custom_id in asked)
    for line in output.read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        custom_id = result["custom_id"]
        content = result["response"]["body"]["choices"][0]["message"]["content"]
        if asked[custom_id].is_right(content):
            right[custom_id.split("-")[0]] += 1
        else:
            print(f"wrong: {custom_id} {asked[custom_id].messages[-1]['content']!r} -> {content!r}")
    for kind in total:
        print(f"{kind:10} {right[kind]:3} of {total[kind]}")
    print(f"{'all':10} {right.total():3} of {total.total()}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["score"]:
        score(Path(sys.argv[2]))
    else:
        write()
