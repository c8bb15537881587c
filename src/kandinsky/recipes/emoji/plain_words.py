"""What people call the commonest things, in four languages: pure data."""

from functools import cache
from typing import NamedTuple


class Noun(NamedTuple):
    """A noun and its gender: m, f, n, p for plurals, empty where the language has none."""

    word: str
    gender: str = ""


_TABLE = """\
1F697 | car/automobile | f:машина/m:автомобиль | n:Auto/m:Wagen | 汽车/车/小汽车
1F698 | car | f:машина/m:автомобиль | n:Auto | 汽车/车
1F699 | car/SUV | f:машина/m:джип | n:Auto/m:Geländewagen | 汽车/越野车
1F3CE | racing car/sports car | f:гоночная машина | m:Rennwagen/n:Rennauto | 赛车/跑车
1F695 | taxi | n:такси | n:Taxi | 出租车
1F693 | police car | f:полицейская машина | n:Polizeiauto/m:Polizeiwagen | 警车
1F68C | bus | m:автобус | m:Bus | 公交车/公共汽车/巴士
1F69A | truck/lorry | m:грузовик | m:Lastwagen/m:Lkw | 卡车/货车
1F692 | fire truck/fire engine | f:пожарная машина | n:Feuerwehrauto | 消防车
1F691 | ambulance | f:скорая помощь | m:Krankenwagen | 救护车
1F69C | tractor | m:трактор | m:Traktor | 拖拉机
1F6B2 | bicycle/bike | m:велосипед | n:Fahrrad/n:Rad | 自行车
1F3CD | motorcycle/motorbike | m:мотоцикл | n:Motorrad | 摩托车
1F6F5 | scooter | m:скутер/m:мотороллер | m:Roller/m:Motorroller | 小摩托/踏板车
1F686 | train | m:поезд | m:Zug | 火车
1F682 | steam train/locomotive/train | m:паровоз/m:поезд | f:Dampflok/f:Lokomotive | 蒸汽火车/火车
1F68A | tram | m:трамвай | f:Straßenbahn | 电车
2708 | plane/airplane | m:самолёт/m:самолет | n:Flugzeug | 飞机
1F681 | helicopter | m:вертолёт/m:вертолет | m:Hubschrauber | 直升机
1F680 | rocket/spaceship | f:ракета | f:Rakete | 火箭
1F6F8 | UFO/flying saucer | f:летающая тарелка/n:НЛО | n:UFO | 飞碟
26F5 | sailboat/boat | m:парусник/f:лодка | n:Segelboot/n:Boot | 帆船/船
1F6A2 | ship | m:корабль | n:Schiff | 轮船/船
2693 | anchor | m:якорь | m:Anker | 锚
1F3E0 | house/home | m:дом | n:Haus | 房子/屋子
1F3E1 | house/house with a garden | m:дом/m:дом с садом | n:Haus | 房子
1F3F0 | castle | m:замок | n:Schloss/f:Burg | 城堡
26EA | church | f:церковь | f:Kirche | 教堂
26FA | tent | f:палатка | n:Zelt | 帐篷
1F5FC | tower | f:башня | m:Turm | 塔
1F6AA | door | f:дверь | f:Tür | 门
1FA9F | window | n:окно | n:Fenster | 窗户
1F6CF | bed | f:кровать | n:Bett | 床
1FA91 | chair | m:стул | m:Stuhl | 椅子
1F6CB | sofa/couch | m:диван | n:Sofa | 沙发
1F6C1 | bathtub | f:ванна | f:Badewanne | 浴缸
1F408 | cat | f:кошка/m:кот | f:Katze | 猫/猫咪
1F431 | cat/kitten | f:кошка/m:кот/m:котёнок | f:Katze/n:Kätzchen | 猫/小猫
1F415 | dog | f:собака/m:пёс | m:Hund | 狗
1F436 | dog/puppy | f:собака/m:щенок | m:Hund/m:Welpe | 狗/小狗
1F98A | fox | f:лиса/m:лис/f:лисица | m:Fuchs | 狐狸
1F43A | wolf | m:волк | m:Wolf | 狼
1F43B | bear | m:медведь | m:Bär | 熊
1F43C | panda | f:панда | m:Panda | 熊猫
1F981 | lion | m:лев | m:Löwe | 狮子
1F42F | tiger | m:тигр | m:Tiger | 老虎
1F405 | tiger | m:тигр | m:Tiger | 老虎
1F434 | horse | f:лошадь/m:конь | n:Pferd | 马
1F40E | horse | f:лошадь/m:конь | n:Pferd | 马
1F984 | unicorn | m:единорог | n:Einhorn | 独角兽
1F42E | cow | f:корова | f:Kuh | 牛/奶牛
1F404 | cow | f:корова | f:Kuh | 奶牛/牛
1F437 | pig | f:свинья | n:Schwein | 猪
1F416 | pig | f:свинья | n:Schwein | 猪
1F411 | sheep | f:овца | n:Schaf | 绵羊/羊
1F410 | goat | f:коза | f:Ziege | 山羊
1F430 | rabbit/bunny | m:кролик/m:заяц | m:Hase/n:Kaninchen | 兔子
1F407 | rabbit/bunny | m:кролик/m:заяц | m:Hase/n:Kaninchen | 兔子
1F42D | mouse | f:мышь/f:мышка | f:Maus | 老鼠
1F401 | mouse | f:мышь/f:мышка | f:Maus | 老鼠
1F439 | hamster | m:хомяк | m:Hamster | 仓鼠
1F435 | monkey | f:обезьяна | m:Affe | 猴子
1F412 | monkey | f:обезьяна | m:Affe | 猴子
1F418 | elephant | m:слон | m:Elefant | 大象
1F992 | giraffe | m:жираф | f:Giraffe | 长颈鹿
1F993 | zebra | f:зебра | n:Zebra | 斑马
1F438 | frog | f:лягушка | m:Frosch | 青蛙
1F422 | turtle/tortoise | f:черепаха | f:Schildkröte | 乌龟
1F40D | snake | f:змея | f:Schlange | 蛇
1F40A | crocodile | m:крокодил | n:Krokodil | 鳄鱼
1F432 | dragon | m:дракон | m:Drache | 龙
1F409 | dragon | m:дракон | m:Drache | 龙
1F995 | dinosaur | m:динозавр | m:Dinosaurier | 恐龙
1F996 | dinosaur/T-Rex | m:динозавр | m:Dinosaurier | 恐龙/霸王龙
1F41F | fish | f:рыба/f:рыбка | m:Fisch | 鱼
1F420 | tropical fish/fish | f:рыбка/f:тропическая рыба | m:Tropenfisch/m:Fisch | 热带鱼/鱼
1F433 | whale | m:кит | m:Wal | 鲸鱼
1F40B | whale | m:кит | m:Wal | 鲸鱼
1F42C | dolphin | m:дельфин | m:Delfin | 海豚
1F988 | shark | f:акула | m:Hai | 鲨鱼
1F419 | octopus | m:осьминог | m:Oktopus/f:Krake | 章鱼
1F980 | crab | m:краб | f:Krabbe/m:Krebs | 螃蟹
1F40C | snail | f:улитка | f:Schnecke | 蜗牛
1F98B | butterfly | f:бабочка | m:Schmetterling | 蝴蝶
1F41D | bee | f:пчела | f:Biene | 蜜蜂
1F41E | ladybug/ladybird | f:божья коровка | m:Marienkäfer | 瓢虫
1F577 | spider | m:паук | f:Spinne | 蜘蛛
1F41C | ant | m:муравей | f:Ameise | 蚂蚁
1F426 | bird | f:птица/f:птичка | m:Vogel | 鸟/小鸟
1F424 | chick | m:цыплёнок | n:Küken | 小鸡
1F413 | rooster/cock | m:петух | m:Hahn | 公鸡
1F414 | chicken/hen | f:курица | n:Huhn | 鸡/母鸡
1F986 | duck | f:утка | f:Ente | 鸭子
1F427 | penguin | m:пингвин | m:Pinguin | 企鹅
1F989 | owl | f:сова | f:Eule | 猫头鹰
1F99C | parrot | m:попугай | m:Papagei | 鹦鹉
1F9A9 | flamingo | m:фламинго | m:Flamingo | 火烈鸟
1F333 | tree | n:дерево | m:Baum | 树/大树
1F332 | tree/fir tree/pine | f:ёлка/f:ель/n:дерево | m:Tannenbaum/m:Baum | 松树/树
1F384 | Christmas tree | f:новогодняя ёлка/f:рождественская ёлка | m:Weihnachtsbaum | 圣诞树
1F334 | palm tree/palm | f:пальма | f:Palme | 棕榈树
1F335 | cactus | m:кактус | m:Kaktus | 仙人掌
1F339 | rose | f:роза | f:Rose | 玫瑰/玫瑰花
1F337 | tulip/flower | m:тюльпан/m:цветок | f:Tulpe/f:Blume | 郁金香/花
1F33B | sunflower | m:подсолнух | f:Sonnenblume | 向日葵
1F33C | flower/daisy | m:цветок/f:ромашка | f:Blume | 花/花朵
1F33A | flower | m:цветок | f:Blume | 花
1F341 | leaf/maple leaf | m:лист/m:кленовый лист | n:Blatt | 叶子/枫叶
1F344 | mushroom | m:гриб | m:Pilz | 蘑菇
1F34E | apple | n:яблоко | m:Apfel | 苹果
1F34F | apple | n:яблоко | m:Apfel | 苹果
1F34C | banana | m:банан | f:Banane | 香蕉
1F34A | orange/tangerine | m:апельсин/m:мандарин | f:Orange/f:Mandarine | 橙子/橘子
1F34B | lemon | m:лимон | f:Zitrone | 柠檬
1F353 | strawberry | f:клубника | f:Erdbeere | 草莓
1F352 | cherry/cherries | f:вишня | f:Kirsche/p:Kirschen | 樱桃
1F347 | grapes | m:виноград | p:Trauben/p:Weintrauben | 葡萄
1F349 | watermelon | m:арбуз | f:Wassermelone | 西瓜
1F350 | pear | f:груша | f:Birne | 梨
1F351 | peach | m:персик | m:Pfirsich | 桃子
1F34D | pineapple | m:ананас | f:Ananas | 菠萝
1F345 | tomato | m:помидор | f:Tomate | 番茄/西红柿
1F955 | carrot | f:морковь/f:морковка | f:Karotte/f:Möhre | 胡萝卜
1F33D | corn | f:кукуруза | m:Mais | 玉米
1F336 | chili/hot pepper | m:перец | f:Chili/f:Peperoni | 辣椒
1F95A | egg | n:яйцо | n:Ei | 鸡蛋
1F35E | bread | m:хлеб | n:Brot | 面包
1F9C0 | cheese | m:сыр | m:Käse | 奶酪
1F355 | pizza | f:пицца | f:Pizza | 披萨/比萨
1F354 | burger/hamburger | m:бургер/m:гамбургер | m:Burger/m:Hamburger | 汉堡包
1F32D | hot dog | m:хот-дог | m:Hotdog | 热狗
1F35F | fries/french fries | f:картошка фри | p:Pommes | 薯条
1F363 | sushi | p:суши | n:Sushi | 寿司
1F370 | cake/piece of cake | m:торт/n:пирожное | f:Torte/m:Kuchen | 蛋糕
1F382 | cake/birthday cake | m:торт | f:Torte/m:Geburtstagskuchen | 蛋糕/生日蛋糕
1F369 | donut/doughnut | m:пончик | m:Donut | 甜甜圈
1F36A | cookie/biscuit | n:печенье | m:Keks | 饼干
1F36B | chocolate | m:шоколад | f:Schokolade | 巧克力
1F366 | ice cream | n:мороженое | n:Eis | 冰淇淋
1F368 | ice cream | n:мороженое | n:Eis | 冰淇淋
1F36D | lollipop | m:леденец | m:Lutscher | 棒棒糖
1F36C | candy/sweet | f:конфета | n:Bonbon | 糖果
2615 | cup/cup of coffee/coffee/mug | f:чашка/m:кофе/f:кружка | f:Tasse/m:Kaffee/m:Becher | 杯子/咖啡
1F375 | cup/cup of tea/tea | f:чашка/m:чай | f:Tasse/m:Tee | 茶/茶杯/杯子
1FAD6 | teapot | m:чайник | f:Teekanne | 茶壶
1F377 | glass of wine/wine glass/wine | m:бокал/n:вино | n:Weinglas/m:Wein | 酒杯/红酒
1F37A | beer/mug of beer | n:пиво | n:Bier | 啤酒
1F374 | fork and knife | f:вилка и нож | f:Gabel und Messer | 刀叉
1F944 | spoon | f:ложка | m:Löffel | 勺子
1F52A | knife | m:нож | n:Messer | 刀
2600 | sun | n:солнце | f:Sonne | 太阳
1F31E | sun/smiling sun | n:солнце | f:Sonne | 太阳
1F319 | moon/crescent | f:луна/m:месяц | m:Mond | 月亮
1F315 | moon/full moon | f:луна | m:Mond/m:Vollmond | 月亮/满月
2B50 | star | f:звезда/f:звёздочка | m:Stern | 星星
1F31F | star | f:звезда | m:Stern | 星星
2601 | cloud | n:облако/f:туча | f:Wolke | 云/云朵
1F308 | rainbow | f:радуга | m:Regenbogen | 彩虹
26A1 | lightning/lightning bolt | f:молния | m:Blitz | 闪电
2744 | snowflake | f:снежинка | f:Schneeflocke | 雪花
26C4 | snowman | m:снеговик | m:Schneemann | 雪人
1F525 | fire/flame | m:огонь/n:пламя | n:Feuer/f:Flamme | 火/火焰
1F4A7 | drop/drop of water | f:капля | m:Tropfen/m:Wassertropfen | 水滴
1F30A | wave | f:волна | f:Welle | 海浪
1F30B | volcano | m:вулкан | m:Vulkan | 火山
26F0 | mountain | f:гора | m:Berg | 山
1F3D4 | mountain/snowy mountain | f:гора | m:Berg | 山/雪山
1F30D | earth/globe/planet | f:земля/m:глобус/f:планета | f:Erde/m:Globus | 地球
1FA90 | planet/Saturn | f:планета | m:Planet/m:Saturn | 行星/土星
2764 | heart | n:сердце | n:Herz | 心/爱心/心形
1F499 | heart | n:сердце | n:Herz | 心/爱心
1F49A | heart | n:сердце | n:Herz | 心/爱心
1F49B | heart | n:сердце | n:Herz | 心/爱心
1F49C | heart | n:сердце | n:Herz | 心/爱心
1F600 | smile/smiley/happy face | m:смайлик/n:весёлое лицо | m:Smiley/n:fröhliches Gesicht | 笑脸
1F642 | smile/smiley | m:смайлик | m:Smiley | 笑脸
1F622 | sad face/crying face | n:грустное лицо | n:trauriges Gesicht | 哭脸/伤心的脸
1F620 | angry face | n:злое лицо | n:wütendes Gesicht | 生气的脸
1F916 | robot | m:робот | m:Roboter | 机器人
1F47B | ghost | n:привидение/m:призрак | n:Gespenst/m:Geist | 鬼/幽灵
1F47D | alien | m:инопланетянин | m:Außerirdischer | 外星人
1F480 | skull | m:череп | m:Totenkopf/m:Schädel | 骷髅头
1F383 | pumpkin/halloween pumpkin | f:тыква | m:Kürbis | 南瓜
1F381 | gift/present | m:подарок | n:Geschenk | 礼物
1F388 | balloon | m:шарик/m:воздушный шар | m:Luftballon/m:Ballon | 气球
1F451 | crown | f:корона | f:Krone | 皇冠/王冠
1F48D | ring | n:кольцо | m:Ring | 戒指
1F48E | diamond/gem | m:алмаз/m:бриллиант | m:Diamant/m:Edelstein | 钻石/宝石
1F3A9 | hat/top hat | f:шляпа/m:цилиндр | m:Hut/m:Zylinder | 帽子
1F452 | hat/lady's hat | f:шляпа/f:шляпка | m:Hut | 帽子
1F9E2 | cap | f:кепка | f:Kappe/f:Mütze | 帽子
1F455 | shirt/t-shirt | f:футболка/f:рубашка | n:T-Shirt/n:Hemd | 衬衫/T恤
1F457 | dress | n:платье | n:Kleid | 裙子/连衣裙
1F456 | jeans/trousers | p:джинсы/p:штаны | f:Jeans/f:Hose | 牛仔裤/裤子
1F45F | shoe/sneaker | f:кроссовка/m:ботинок | m:Schuh/m:Turnschuh | 鞋/运动鞋
1F45E | shoe | m:ботинок/f:туфля | m:Schuh | 鞋
1F462 | boot | m:сапог | m:Stiefel | 靴子
1F9E6 | socks | p:носки | p:Socken | 袜子
1F9E4 | gloves | p:перчатки | p:Handschuhe | 手套
1F9E3 | scarf | m:шарф | m:Schal | 围巾
1F453 | glasses | p:очки | f:Brille | 眼镜
1F576 | sunglasses | p:солнечные очки | f:Sonnenbrille | 墨镜/太阳镜
1F45C | bag/handbag | f:сумка | f:Tasche/f:Handtasche | 包/手提包
1F392 | backpack/school bag | m:рюкзак/m:ранец | m:Rucksack | 书包/背包
2602 | umbrella | m:зонт/m:зонтик | m:Regenschirm/m:Schirm | 雨伞/伞
2614 | umbrella | m:зонт/m:зонтик | m:Regenschirm/m:Schirm | 雨伞/伞
1F511 | key | m:ключ | m:Schlüssel | 钥匙
1F5DD | key/old key | m:ключ/m:старый ключ | m:Schlüssel | 钥匙
1F512 | lock/padlock | m:замок | n:Schloss | 锁
1F514 | bell | m:колокольчик/m:колокол | f:Glocke | 铃铛
1F528 | hammer | m:молоток | m:Hammer | 锤子
2702 | scissors | p:ножницы | f:Schere | 剪刀
270F | pencil | m:карандаш | m:Bleistift | 铅笔
1F58A | pen | f:ручка | m:Stift/m:Kugelschreiber | 笔/钢笔
1F4D5 | book | f:книга | n:Buch | 书
1F4D7 | book | f:книга | n:Buch | 书
1F4D8 | book | f:книга | n:Buch | 书
1F4D9 | book | f:книга | n:Buch | 书
1F4D6 | book/open book | f:книга | n:Buch | 书
1F4DA | books | p:книги | p:Bücher | 书/书本
2709 | envelope/letter | m:конверт/n:письмо | m:Briefumschlag/m:Brief | 信封/信
1F4E6 | box/package | f:коробка/f:посылка | f:Kiste/n:Paket | 箱子/盒子
1F4F1 | phone/mobile phone | m:телефон/m:смартфон | n:Handy/n:Telefon | 手机
260E | phone/telephone | m:телефон | n:Telefon | 电话
1F4F7 | camera | m:фотоаппарат/f:камера | f:Kamera | 相机/照相机
1F4BB | laptop/computer | m:ноутбук/m:компьютер | m:Laptop/m:Computer | 笔记本电脑/电脑
1F4FA | television/TV | m:телевизор | m:Fernseher | 电视
23F0 | clock/alarm clock | m:будильник/p:часы | m:Wecker/f:Uhr | 闹钟/钟
231A | watch | p:часы | f:Uhr/f:Armbanduhr | 手表
1F4A1 | lamp/light bulb | f:лампочка/f:лампа | f:Glühbirne/f:Lampe | 灯泡/灯
1F56F | candle | f:свеча | f:Kerze | 蜡烛
1F4A3 | bomb | f:бомба | f:Bombe | 炸弹
1F3B8 | guitar | f:гитара | f:Gitarre | 吉他
1F3BB | violin | f:скрипка | f:Geige/f:Violine | 小提琴
1F3BA | trumpet | f:труба | f:Trompete | 小号
1F941 | drum | m:барабан | f:Trommel | 鼓
1F3A4 | microphone | m:микрофон | n:Mikrofon | 麦克风
1F3A7 | headphones | p:наушники | m:Kopfhörer | 耳机
26BD | ball/football/soccer ball | m:мяч/m:футбольный мяч | m:Ball/m:Fußball | 球/足球
1F3C0 | basketball/ball | m:баскетбольный мяч/m:мяч | m:Basketball/m:Ball | 篮球/球
1F3BE | tennis ball/ball | m:теннисный мяч/m:мяч | m:Tennisball/m:Ball | 网球
1F3C6 | cup/trophy | m:кубок | m:Pokal | 奖杯
1F3B2 | dice/die | m:кубик/f:игральная кость | m:Würfel | 骰子
1F9F8 | teddy bear/teddy | m:плюшевый мишка/m:мишка | m:Teddybär/m:Teddy | 泰迪熊/玩具熊
1F6E1 | shield | m:щит | m:Schild | 盾牌
1F5E1 | dagger/sword | m:кинжал/m:меч | m:Dolch/n:Schwert | 剑/匕首
1F9F2 | magnet | m:магнит | m:Magnet | 磁铁
1FA9C | ladder | f:лестница | f:Leiter | 梯子
1FAA3 | bucket | n:ведро | m:Eimer | 桶/水桶
1F9F9 | broom | f:метла | m:Besen | 扫帚
1F6D2 | shopping cart/cart | f:тележка | m:Einkaufswagen | 购物车
1F3AF | target/bullseye | f:мишень | f:Zielscheibe | 靶子
1F9ED | compass | m:компас | m:Kompass | 指南针
1F52D | telescope | m:телескоп | n:Teleskop | 望远镜
1F9F6 | yarn/ball of yarn | m:клубок | n:Wollknäuel | 毛线球
"""
"""Code points | en | ru | de | zh; names parted by /; Russian and German ones begin with their gender.

Concepts with the same names are drawings of the same thing.
"""

LANGUAGES = ("en", "ru", "de", "zh")


def _noun(text: str) -> Noun:
    gender, colon, word = text.partition(":")
    return Noun(word, gender) if colon else Noun(text)


@cache
def plain_nouns() -> dict[str, dict[str, tuple[Noun, ...]]]:
    """Code points -> language -> nouns, the commonest first."""
    found = {}
    for line in _TABLE.splitlines():
        key, *columns = (column.strip() for column in line.split("|"))
        nouns = (tuple(_noun(name) for name in column.split("/")) for column in columns)
        found[key] = dict(zip(LANGUAGES, nouns, strict=True))
    return found
