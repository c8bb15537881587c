"""Caption vocabulary in sixteen languages: backgrounds, styles, articles, conjunctions.

Pure data. Colour words stand in the form their template asks for (case, gender), so that a phrase is a plain
`template.format(colour)`.
"""

from kandinsky.training.data.compose import BACKGROUNDS

LANGUAGES: dict[str, float] = {
    "en": 0.35,
    "ru": 0.15,
    **dict.fromkeys(("de", "fr", "es", "it", "pt", "nl", "pl", "uk", "zh", "ja", "ko", "hi", "ar", "tr"), 0.5 / 14),
}
"""How often a caption is in each language; English and Russian are what the model is asked for most."""

COLOURS = BACKGROUNDS
"""Background colours by their English names."""

BACKGROUND_TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": ("on a {} background", "on a {} background", "{} background", "on {}"),
    "ru": ("на {} фоне",),
    "de": ("auf {} Hintergrund",),
    "fr": ("sur fond {}", "sur un fond {}"),
    "es": ("sobre fondo {}", "sobre un fondo {}"),
    "it": ("su sfondo {}", "su uno sfondo {}"),
    "pt": ("em fundo {}", "sobre um fundo {}"),
    "nl": ("op een {} achtergrond",),
    "pl": ("na {} tle",),
    "uk": ("на {} тлі",),
    "zh": ("{}背景", "在{}背景上"),
    "ja": ("{}背景", "{}背景に"),
    "ko": ("{} 배경", "{} 배경에"),
    "hi": ("{} पृष्ठभूमि पर",),
    "ar": ("على خلفية {}",),
    "tr": ("{} arka planda", "{} arka plan üzerinde"),
}

_COLOUR_WORDS: dict[str, str] = {
    "en": "white|black|grey|red|orange|yellow|green|light blue|blue|purple|pink|brown",
    "ru": "белом|чёрном|сером|красном|оранжевом|жёлтом|зелёном|голубом|синем|фиолетовом|розовом|коричневом",
    "de": "weißem|schwarzem|grauem|rotem|orangem|gelbem|grünem|hellblauem|blauem|lila|rosa|braunem",
    "fr": "blanc|noir|gris|rouge|orange|jaune|vert|bleu clair|bleu|violet|rose|marron",
    "es": "blanco|negro|gris|rojo|naranja|amarillo|verde|celeste|azul|morado|rosa|marrón",
    "it": "bianco|nero|grigio|rosso|arancione|giallo|verde|azzurro|blu|viola|rosa|marrone",
    "pt": "branco|preto|cinza|vermelho|laranja|amarelo|verde|azul-claro|azul|roxo|rosa|marrom",
    "nl": "witte|zwarte|grijze|rode|oranje|gele|groene|lichtblauwe|blauwe|paarse|roze|bruine",
    "pl": "białym|czarnym|szarym|czerwonym|pomarańczowym|żółtym|zielonym|błękitnym|niebieskim|fioletowym"
    "|różowym|brązowym",
    "uk": "білому|чорному|сірому|червоному|помаранчевому|жовтому|зеленому|блакитному|синьому|фіолетовому"
    "|рожевому|коричневому",
    "zh": "白色|黑色|灰色|红色|橙色|黄色|绿色|浅蓝色|蓝色|紫色|粉色|棕色",
    "ja": "白い|黒い|灰色の|赤い|オレンジ色の|黄色い|緑色の|水色の|青い|紫色の|ピンク色の|茶色の",
    "ko": "흰색|검은색|회색|빨간색|주황색|노란색|초록색|하늘색|파란색|보라색|분홍색|갈색",
    "hi": "सफ़ेद|काली|स्लेटी|लाल|नारंगी|पीली|हरी|आसमानी|नीली|बैंगनी|गुलाबी|भूरी",
    "ar": "بيضاء|سوداء|رمادية|حمراء|برتقالية|صفراء|خضراء|سماوية|زرقاء|بنفسجية|وردية|بنية",
    "tr": "beyaz|siyah|gri|kırmızı|turuncu|sarı|yeşil|açık mavi|mavi|mor|pembe|kahverengi",
}

COLOUR_WORDS: dict[str, dict[str, str]] = {
    language: dict(zip(COLOURS, words.split("|"), strict=True)) for language, words in _COLOUR_WORDS.items()
}
"""language -> colour name -> the word as `BACKGROUND_TEMPLATES` needs it."""

_RENDER: dict[str, tuple[str, ...]] = {
    "en": ("3D", "3D render"),
    "ru": ("3D", "3D-рендер", "объёмный рисунок"),
    "de": ("3D", "3D-Rendering"),
    "fr": ("3D", "rendu 3D"),
    "es": ("3D", "render 3D"),
    "it": ("3D", "rendering 3D"),
    "pt": ("3D", "renderização 3D"),
    "nl": ("3D", "3D-weergave"),
    "pl": ("3D", "render 3D"),
    "uk": ("3D", "3D-рендер"),
    "zh": ("3D", "3D渲染"),
    "ja": ("3D", "3Dレンダリング"),
    "ko": ("3D", "3D 렌더링"),
    "hi": ("3D", "3D रेंडर"),
    "ar": ("3D", "ثلاثي الأبعاد"),
    "tr": ("3D", "3D render"),
}

_GRADIENT: dict[str, tuple[str, ...]] = {
    "en": ("gradient", "color vector"),
    "ru": ("градиент", "цветной вектор"),
    "de": ("Farbverlauf", "Farbvektor"),
    "fr": ("dégradé", "vecteur en couleur"),
    "es": ("degradado", "vector de color"),
    "it": ("sfumato", "vettoriale a colori"),
    "pt": ("gradiente", "vetor colorido"),
    "nl": ("kleurverloop", "kleurenvector"),
    "pl": ("gradient", "kolorowy wektor"),
    "uk": ("градієнт", "кольоровий вектор"),
    "zh": ("渐变", "彩色矢量"),
    "ja": ("グラデーション", "カラーベクター"),
    "ko": ("그라데이션", "컬러 벡터"),
    "hi": ("ग्रेडिएंट", "रंगीन वेक्टर"),
    "ar": ("تدرج لوني", "رسم متجه ملون"),
    "tr": ("renk geçişi", "renkli vektör"),
}

_FLAT: dict[str, tuple[str, ...]] = {
    "en": ("flat", "flat icon"),
    "ru": ("плоский стиль", "плоская иконка"),
    "de": ("flach", "flaches Symbol"),
    "fr": ("style plat", "icône plate"),
    "es": ("estilo plano", "icono plano"),
    "it": ("stile piatto", "icona piatta"),
    "pt": ("estilo plano", "ícone plano"),
    "nl": ("vlak", "plat pictogram"),
    "pl": ("płaski styl", "płaska ikona"),
    "uk": ("плаский стиль", "плоска іконка"),
    "zh": ("扁平", "扁平图标"),
    "ja": ("フラット", "フラットアイコン"),
    "ko": ("플랫", "플랫 아이콘"),
    "hi": ("फ़्लैट", "फ़्लैट आइकन"),
    "ar": ("مسطح", "أيقونة مسطحة"),
    "tr": ("düz stil", "düz simge"),
}

STYLE_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "fluent-3d": _RENDER,
    "fluent-color": _GRADIENT,
    "fluent-flat": _FLAT,
    "noto": dict.fromkeys(LANGUAGES, ("noto",)),
    "noto-blob": dict.fromkeys(LANGUAGES, ("blob",)),
}
"""style -> language -> phrases; "noto" and "blob" are proper names and stay as they are in every language."""

ADJECTIVES: frozenset[str] = frozenset({"3D", "gradient", "flat", "noto", "blob"})
"""English style words that may also stand before the subject ("flat red apple")."""

ARTICLES: dict[str, tuple[str, ...]] = {
    "de": ("ein", "eine"),
    "fr": ("un", "une"),
    "es": ("un", "una"),
    "it": ("un", "una"),
    "pt": ("um", "uma"),
    "nl": ("een",),
    "hi": ("एक",),
    "tr": ("bir",),
    "zh": ("一个",),
}
"""Indefinite articles. CLDR carries no gender, so both are drawn: the text tower learns that the article says
little."""

ENGLISH_FRAMES: tuple[str, ...] = (
    "a {}",
    "a {}",
    "a {}",
    "the {}",
    "a picture of a {}",
    "an emoji of a {}",
    "a drawing of a {}",
    "an image of a {}",
)

AND: dict[str, str] = {
    "en": "{} and {}",
    "ru": "{} и {}",
    "de": "{} und {}",
    "fr": "{} et {}",
    "es": "{} y {}",
    "it": "{} e {}",
    "pt": "{} e {}",
    "nl": "{} en {}",
    "pl": "{} i {}",
    "uk": "{} і {}",
    "zh": "{}和{}",
    "ja": "{}と{}",
    "ko": "{}, {}",
    "hi": "{} और {}",
    "ar": "{} و{}",
    "tr": "{} ve {}",
}
"""Two things side by side, the left one first."""

COMMA: dict[str, str] = {"zh": "，", "ja": "、", "ar": "، "}
"""What stands between the parts of a caption; `, ` elsewhere."""

UNSPACED: frozenset[str] = frozenset({"zh", "ja"})
"""Languages written without spaces between words."""
