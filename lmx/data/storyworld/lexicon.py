"""The words of the story world: who and what there is, how it looks, what can be done with it.

Each table is prose (see grammar). A table `part:kite` holds the parts of the toy "kite": what is possible
follows from what was chosen before.
"""

from __future__ import annotations

BEASTS = ("rabbit", "fox", "bear", "mouse", "squirrel", "kitten", "puppy", "badger", "otter", "beaver")


def ranked(words: str) -> str:
    """Give comma-separated words weights that fall with their rank, as words have them in a language."""
    return "|".join(f"{round(40 / (1 + 0.06 * rank))}:{word}" for rank, word in enumerate(words.split(", ")))


GIRLS = (
    "Lily, Mia, Anna, Lucy, Sara, Emma, Rosie, Nora, Ella, Molly, Zoe, Ruby, Ivy, Clara, Daisy, Tess, Maya, "
    "Nina, Alice, Hazel, Poppy, Jane, Penny, Wendy, Kate, Olive, Flora, June, Betty, Grace"
)
BOYS = (
    "Tim, Ben, Tom, Max, Jack, Leo, Sam, Finn, Noah, Oscar, Adam, Luke, Peter, Toby, Will, Hugo, Danny, Kit, "
    "Ned, Owen, Eli, Ravi, Paul, George, Victor, Simon, Charlie, Albert, Felix, Dylan"
)
FEMALE_BEASTS = "Dot, Fern, Honey, Willow, Cleo, Coco, Mimi, Tilly, Pearl, Bonnie"
MALE_BEASTS = "Pip, Rusty, Bramble, Milo, Chip, Biscuit, Otto, Bruno, Fuzzy, Jasper"
FEMALE = frozenset(f"{GIRLS}, {FEMALE_BEASTS}".split(", "))
_CHILDREN = f"{GIRLS}, {BOYS}".split(", ")
_ANIMALS = f"{FEMALE_BEASTS}, {MALE_BEASTS}".split(", ")


def _others(name: str) -> str:
    """The names that a friend of `name` may have."""
    names = _CHILDREN if name in _CHILDREN else _ANIMALS
    return ranked(", ".join(other for other in names if other != name))


PEOPLE: dict[str, str] = {
    "stranger": "3:boy|3:girl|3:man|3:woman|2:lady|2:gentleman|child|cyclist",
    "trait": ranked(
        "little, young, small, kind, clever, brave, curious, happy, shy, playful, cheerful, gentle, quiet, "
        "lively, "
        "funny, helpful, careful, friendly, lonely, dreamy, noisy, loyal, polite, restless, eager, proud, "
        "stubborn, patient, silly, strong, thoughtful, bold"
    ),
    "kind": f"30:girl|30:boy|{'|'.join(f'3:{beast}' for beast in BEASTS)}",
    "name:girl": ranked(GIRLS),
    "name:boy": ranked(BOYS),
    **{f"name:{beast}": ranked(f"{FEMALE_BEASTS}, {MALE_BEASTS}") for beast in BEASTS},
    **{f"friend:{name}": _others(name) for name in (*_CHILDREN, *_ANIMALS)},
    "kin": "9:mother|7:father|6:grandma|5:grandpa|4:aunt|4:uncle|3:sister|3:brother",
    "wear": ranked(
        "hat, coat, scarf, shirt, sweater, jacket, cap, vest, belt, cloak, ribbon, apron, tie, hood"
    ),
    "neighbor": ranked(
        "baker, farmer, teacher, doctor, nurse, painter, pilot, miller, carpenter, shepherd, librarian, "
        "gardener, captain, singer, tailor, clown, cook, sailor, judge, weaver, hunter, dentist, mayor, "
        "plumber"
    ),
    "landmark": ranked(
        "school, bridge, mill, bakery, church, station, well, library, orchard, pond, harbor, barn, "
        "theater, museum, "
        "castle, lighthouse, bus stop, fountain, hotel, tower, inn, garage, post office, zoo"
    ),
    "house": ranked(
        "small, cozy, tall, pretty, old, narrow, crooked, plain, round, sunny, noisy, tidy, wooden, brick, "
        "little, big, quiet, dark, dusty, bright, clean, fancy, simple, lovely, long"
    ),
    "near": "5:near|4:by|3:behind|3:next to|2:opposite|beyond",
    "tree": "4:oak|3:pine|3:willow|3:birch|2:beech|2:elm|2:maple|2:fir",
    "home:girl": "in <a house> <color> house <near> the <landmark>",
    "home:boy": "in <a house> <color> house <near> the <landmark>",
    **{
        f"home:{beast}": "[3:under|2:below|2:beside] <a odd> <tree> <near> the <landmark>" for beast in BEASTS
    },
    "hobby": "6:collect <odd> <trifle>s|4:paint <color> <creature>s|4:sell <odd> <trifle>s|4:draw <mood> "
    "<creature>s|3:look for <odd> <trifle>s|"
    "3:dream of <mood> <creature>s|sing songs|read books|climb trees|ride a bike|tell jokes|bake cookies|"
    "build towers|knit socks|swim|whistle|dance|play the piano|cook soup|mend clocks",
    "tasty": ranked(
        "warm, sweet, fresh, hot, crisp, cold, soft, tasty, creamy, spicy, salty, golden, sour, tender, "
        "dry, thick, smoked, baked, rich, crunchy, mild, buttery, tangy"
    ),
    "food": "<tasty> <dish>",
    "dish": ranked(
        "soup, pancakes, cheese, noodles, bread, strawberries, toast, rice, carrots, plums, beans, eggs, "
        "nuts, corn, "
        "potatoes, jam, apples, pears, cherries, cookies, dumplings, fish, muffins, porridge, salad, melon, "
        "onions, peaches, lemons, sausages, waffles, pretzels, pies, cakes, tarts, rolls, turnips, peas, "
        "figs, mangoes"
    ),
    "fruit": ranked("apple, pear, banana, plum, peach, orange, fig, melon, mango, lemon, apricot, coconut"),
    "bite": ranked(
        "bun, muffin, cookie, egg, carrot, sandwich, pretzel, waffle, sausage, pancake, roll, tart"
    ),
    "bag": "4:basket|4:bag|3:box|2:pack|sack|tin",
    "sip": "4:cold|4:fresh|3:sweet|3:warm|2:iced|bitter",
    "drink": "4:milk|4:water|3:juice|3:tea|2:lemonade|2:cocoa",
    "meal": "4:dinner|3:lunch|2:supper|2:tea time|dark|sunset",
}

FEELINGS: dict[str, str] = {
    "glad": ranked(
        "happy, glad, proud, excited, cheerful, delighted, pleased, thankful, merry, amazed, full of joy, "
        "over the moon, "
        "relieved, all smiles, content, in high spirits"
    ),
    "sad": ranked(
        "sad, upset, worried, unhappy, sorry, gloomy, close to tears, hurt, heartbroken, lost for words, "
        "very quiet, "
        "miserable, shocked, angry, confused, pale"
    ),
    "scared": ranked("scared, afraid, nervous, frightened, worried, alarmed, uneasy, shaky, tense, pale"),
    "fine": ranked(
        "nice, lovely, great, wonderful, good, perfect, beautiful, special, funny, amazing, sweet, "
        "splendid, clever, "
        "fantastic, brilliant, charming, marvelous, superb"
    ),
    "oh": ranked(
        "Oh no, Oh dear, Uh-oh, Oh my, Goodness, Dear me, Alas, Help, Bother, Oops, What bad luck, Heavens"
    ),
    "yay": ranked(
        "Hooray, Yay, Wow, Yes, At last, How lovely, Well done, Look, Hurrah, What fun, Bravo, Yippee"
    ),
    "said": ranked("said, called, cried, whispered, shouted, laughed, sang, exclaimed, murmured, cheered"),
    "moaned": ranked("said, cried, sighed, whispered, sobbed, moaned, wailed, mumbled, groaned, gasped"),
    "warmly": ranked(
        "softly, happily, kindly, gently, with a smile, with a grin, cheerfully, warmly, sweetly, at once, "
        "proudly, "
        "quickly, loudly, calmly, brightly, eagerly, merrily, politely, bravely"
    ),
    "weakly": ranked(
        "softly, quietly, sadly, in a low voice, slowly, with a sigh, with wet eyes, shyly, weakly, "
        "hoarsely, nervously, "
        "angrily, bitterly, loudly, helplessly, faintly"
    ),
    "soon": ranked(
        "Soon, After a while, At last, Before long, A little later, In the end, An hour later, Finally, At "
        "noon, "
        "By and by, That evening, Little by little"
    ),
    "ran": ranked(
        "ran, walked, hurried, rushed, went, raced, dashed, hopped, marched, skipped, tiptoed, jogged, "
        "strolled"
    ),
    "smiled": ranked(
        "smiled, laughed, nodded, clapped, giggled, grinned, cheered, danced, blushed, beamed, jumped for "
        "joy, sang"
    ),
    "thanks": '"Thank you[3:!|2: so much!|, that is <fine>!|, you are <fine>!]"',
    "limb": "3:knee|3:elbow|3:nose|2:foot|2:chin|2:toe|2:head|2:arm|ear|thumb|shoulder|back",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|2:Saturday|2:Sunday",
    "when": "4:tomorrow|3:soon|2:next week|2:every day|on <day>",
}

THINGS: dict[str, str] = {
    "color": ranked(
        "red, blue, green, yellow, pink, purple, white, black, brown, silver, golden, gray, orange, violet"
    ),
    "odd": ranked(
        "old, new, little, shiny, round, tiny, big, dusty, pretty, muddy, cracked, bent, sticky, smooth, "
        "rough, soft, "
        "heavy, light, thin, thick, flat, crooked, warm, cold, wet, dry, dirty, clean, strange, funny, "
        "ugly, lovely, "
        "plain, striped, spotted, painted, broken, lost, silver, golden, red, blue, green, yellow, white, "
        "black, brown, pink, "
        "purple, gray, orange, small, narrow, tall, short, straight, long, fluffy, silky, curly, dark, "
        "bright, "
        "simple, fancy, square, hollow, greasy"
    ),
    "trifle": ranked(
        "button, key, pebble, stick, spoon, shell, feather, bottle, coin, bell, shoe, sock, marble, nut, "
        "acorn, mushroom, "
        "candle, cup, ring, mug, plate, fork, comb, pencil, map, letter, book, stamp, ticket, card, hat, "
        "glove, mitten, "
        "lantern, lamp, clock, nail, hook, rope, net, bucket, basket, jar, jug, wheel, bone, thimble, "
        "needle, balloon, "
        "flag, mask, mirror, pillow, sponge, teapot, kettle, umbrella, drum, crown, hammer, ladder, carrot, "
        "onion, pumpkin, "
        "kite, boat, truck, train, robot, puppet, scarf, belt, ribbon, apron, necklace, vase, bowl, towel, "
        "crate, tire, apple, "
        "pear, plum, fig, lemon, muffin, cookie, egg, sandwich, pretzel, waffle, sack, wagon, chair, table, "
        "fan"
    ),
    # what goes into a pocket
    "trinket": ranked(
        "button, key, pebble, stick, spoon, shell, feather, coin, bell, sock, marble, nut, acorn, mushroom, "
        "candle, ring, "
        "comb, pencil, map, letter, stamp, ticket, card, glove, mitten, nail, hook, bone, thimble, needle, "
        "flag, mirror, "
        "ribbon, plum, fig, cookie, egg, string, whistle, bead, cork, magnet, chain, medal"
    ),
    "creature": ranked(
        "cat, dog, cow, lamb, hen, duck, frog, goat, owl, snail, snake, toad, mole, hare, horse, lion, "
        "tiger, bear, camel, "
        "parrot, penguin, pigeon, spider, turtle, whale, zebra, rabbit, squirrel, hedgehog, badger, otter, "
        "kitten, donkey, "
        "eagle, swan, robin, gull, seal, dragon, monkey, lizard, elephant, hippo, kangaroo, panda, peacock, "
        "crab, beetle, "
        "sparrow, hawk, lobster, pelican, rooster, stork, cricket, heron, newt, ram, raven, magpie, "
        "woodpecker, terrier, "
        "poodle, kingfisher, grasshopper, dolphin, gosling, turkey"
    ),
    "mood": ranked(
        "little, big, sleepy, fat, lazy, funny, hungry, busy, tiny, angry, shy, brown, gray, white, black, "
        "young, old, "
        "noisy, clever, happy, lonely, thirsty, muddy, wet, friendly, proud, gentle, grumpy, playful, "
        "nervous, bold, round, "
        "kind, brave, curious, cheerful, quiet, lively, helpful, careful, dreamy, loyal, polite, restless, "
        "eager, stubborn, "
        "patient, silly, strong, thoughtful, sad, merry, fluffy, spotted, striped, red, blue, green, "
        "yellow, golden, dusty, "
        "soft, thin, tall"
    ),
    "count": "5:two|4:three|3:four|2:five|2:six|seven|eight|nine|ten|many",
    "number": "4:three|4:ten|3:five|3:two|2:four|2:six|2:seven|eight|nine|twenty",
    "doing": ranked(
        "eating, watching, chasing, carrying, hiding, kicking, sniffing, guarding, licking, selling, "
        "washing, painting, "
        "counting, polishing, burying, dropping, holding, pulling, pushing, drawing, finding, stealing, "
        "wearing, hugging, "
        "throwing, biting, fixing, hitting"
    ),
    "toy": "6:kite|6:ball|4:plane|4:doll|4:boat|4:truck|3:drum|3:train|3:robot|2:puppet|2:teddy bear|2:wagon",
    "play:kite": "flew it [high|low|far] over <a odd> <noun:place>|made it [dance|dive|climb|turn] in the "
    "wind",
    "play:ball": "[threw|kicked|rolled|bounced] it [over|around|past|against] <a odd> <noun:place>",
    "play:plane": "[threw|flew] it [over|around|past|under] <a odd> <noun:place>",
    "play:doll": "[combed|tied|braided|washed] its hair|showed it <a mood> <creature>|gave it <a odd> "
    "<trifle>",
    "play:boat": "[pulled|pushed|sailed] it [around|past|toward] <a odd> <noun:place>|loaded it with "
    "<trifle>s",
    "play:truck": "filled it with <odd> <trifle>s|drove it [around|past|into] <a odd> <noun:place>",
    "play:drum": "[beat|tapped|hit] it with <a odd> <trifle>|drummed for <a mood> <creature>",
    "play:train": "[pulled|pushed] it [around|past|under] <a odd> <noun:place>|loaded it with <trifle>s",
    "play:robot": "made it [walk|march|turn|dance] [around|past] <a odd> <noun:place>|taught it to "
    "[bow|wave|salute|dance]",
    "play:puppet": "made it [dance|bow|jump|nod] for <a mood> <creature>|played <a mood> <creature> with it",
    "play:teddy bear": "[hugged|fed|rocked] it|told it about <a mood> <creature>|gave it <a odd> <trifle>",
    "play:wagon": "filled it with <odd> <trifle>s|pulled it [around|past] <a odd> <noun:place>",
    # what breaks, and what mends it
    "part:kite": "3:string|3:tail|paper",
    "part:plane": "4:wing|2:tail|wheel",
    "part:doll": "3:arm|3:dress|2:leg",
    "part:boat": "3:sail|3:mast|flag",
    "part:truck": "4:wheel|door|ladder",
    "part:drum": "3:strap|skin",
    "part:train": "4:wheel|chimney|roof",
    "part:robot": "3:arm|3:leg|antenna",
    "part:puppet": "3:string|2:arm|leg",
    "part:teddy bear": "3:arm|3:ear|leg",
    "part:wagon": "4:wheel|2:handle|rope",
    **{
        f"mend:{part}": "4:glue|3:tape|2:wire|2:clay|screws|nails|putty|rubber"
        for part in (
            "mast",
            "wheel",
            "door",
            "ladder",
            "chimney",
            "roof",
            "leg",
            "arm",
            "antenna",
            "wing",
            "handle",
        )
    },
    **{
        f"mend:{part}": "4:thread|3:yarn|2:cloth|2:tape|wool|silk|felt|leather"
        for part in ("string", "tail", "paper", "dress", "sail", "flag", "strap", "skin", "ear", "rope")
    },
    "pet": "8:dog|5:cat|3:goat|3:duck|2:lamb|2:pony|2:parrot|2:hen",
    "pet_name": ranked(
        "Spot, Buddy, Lucky, Bella, Sunny, Patch, Pepper, Snowy, Tiger, Muffin, Ginger, Rex, Scout, "
        "Bubbles, Socks, Nibbles"
    ),
    "sound:dog": "3:barked|2:growled|wagged its tail|ran in circles",
    "sound:cat": "3:meowed|2:purred|hissed|arched its back",
    "sound:goat": "3:bleated|2:shook its beard|stamped its foot|hopped about",
    "sound:duck": "3:quacked|2:flapped its wings|waddled off|shook its tail",
    "sound:lamb": "3:bleated|2:jumped up|hopped about|shook its ears",
    "sound:pony": "3:snorted|2:neighed|stamped its foot|shook its mane",
    "sound:parrot": "3:squawked|2:said hello|flapped its wings|whistled",
    "sound:hen": "3:clucked|2:flapped its wings|scratched the ground|hopped about",
    # what is made at home
    "flavor": ranked(
        "apple, cherry, plum, lemon, carrot, nut, honey, banana, pear, pumpkin, berry, chocolate"
    ),
    "pastry": "6:cake|4:pie|2:tart|2:roll|bread|pudding",
    "treat": ranked(
        "sugar, butter, flour, cream, honey, salt, milk, cinnamon, vanilla, mint, ginger, yeast, cocoa, jam"
    ),
    "seed": ranked(
        "pumpkin, tomato, bean, sunflower, carrot, melon, pea, lettuce, turnip, rose, cherry, daisy, onion, "
        "corn"
    ),
    "pest": ranked("snails, crows, ants, goats, slugs, mice, hares, beetles, geese, moles"),
    "dear": ranked("vase, cup, plate, lamp, mirror, clock, teapot, bowl, jug, bottle, mug, pot"),
    "craft": "5:scarf|4:necklace|4:bird "
    "house|4:mask|3:crown|3:lantern|3:basket|3:pillow|2:candle|2:bowl|2:puppet|doll",
    "stuff:scarf": "4:wool|2:yarn|silk|felt",
    "stuff:necklace": "4:beads|3:shells|buttons|seeds",
    "stuff:bird house": "4:wood|3:nails|sticks|bark",
    "stuff:mask": "4:paper|3:feathers|clay|straw",
    "stuff:crown": "4:paper|3:flowers|leaves|gold foil",
    "stuff:lantern": "4:paper|3:glass|wire|wax",
    "stuff:basket": "4:straw|3:reeds|twigs|rope",
    "stuff:pillow": "4:cloth|3:feathers|wool|silk",
    "stuff:candle": "4:wax|2:string|honey wax",
    "stuff:bowl": "4:clay|2:wood|glass",
    "stuff:puppet": "4:cloth|3:buttons|wool|wood",
    "stuff:doll": "4:cloth|3:buttons|wool|straw",
    "patient": "5:bird|4:hedgehog|4:kitten|3:duckling|3:owl|2:bat|2:lamb|2:turtle|mole|hare",
    **{f"hurt:{animal}": "4:wing|2:foot|beak" for animal in ("bird", "owl", "duckling")},
    **{f"hurt:{animal}": "4:paw|3:leg|ear" for animal in ("hedgehog", "kitten", "mole", "hare")},
    **{f"hurt:{animal}": "4:leg|2:foot" for animal in ("lamb", "turtle")},
    "hurt:bat": "4:wing|2:ear",
    "eats:bird": "4:seeds|3:crumbs|2:worms|berries",
    "eats:owl": "3:worms|2:moths|beetles",
    "eats:duckling": "3:peas|3:oats|worms|corn",
    "eats:bat": "3:moths|2:banana|flies",
    "eats:hedgehog": "3:worms|3:apple|beetles|egg",
    "eats:kitten": "5:milk|3:fish|chicken",
    "eats:lamb": "5:milk|2:hay|oats",
    "eats:turtle": "3:lettuce|2:melon|clover",
    "eats:mole": "4:worms|beetles|grubs",
    "eats:hare": "3:clover|3:carrots|lettuce|oats",
}
