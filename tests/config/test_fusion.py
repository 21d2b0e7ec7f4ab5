"""The checks of DUST's keys: what is refused, and the words with which it is."""

import pytest

from tests.config.test_validate import texts

FUSION = {
    "MODEL__MODEL_NAME": "DualSwinFusion",
    "DATA__MODALITIES": ["series", "video_features"],
    "FUSION__FEATURES_FROM": "stage3",
}
END = {**FUSION, "FUSION__END_TO_END": True, "FUSION__FEATURES_FROM": "", "DATA__MODALITIES": ["video", "series"]}
EXTRACT = {"FEATURES__ENABLE": True}


@pytest.mark.parametrize(
    "settings", [FUSION, END, EXTRACT, {**FUSION, "DATA__MODALITIES": ["video_features", "series"]}]
)
def test_what_is_right_passes(settings):
    assert texts(**settings) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"MODEL__MODEL_NAME": "VideoSwin", "VIDEO_SWIN__DEPTHS": [2, 0]}, "each of at least 1 block"),
        ({"MODEL__MODEL_NAME": "VideoSwin", "VIDEO_SWIN__DEPTHS": [2]}, "must be equally many, one for each stage"),
        ({"MODEL__MODEL_NAME": "SeriesSwin", "SERIES_SWIN__NUM_HEADS": [5, 4, 4, 4]}, "must divide the stages' widths"),
        ({"VIDEO_SWIN__WINDOW_SIZE": [8, 7]}, "VIDEO_SWIN.WINDOW_SIZE [8, 7]: must be [frames, height, width]"),
        ({"VIDEO_SWIN__FROZEN_STAGES": 9}, "VIDEO_SWIN.FROZEN_STAGES 9: must be -1 (none) to 4 (all stages)"),
        ({"SERIES_SWIN__ABSOLUTE_POS_EMBED": True, "SERIES__LENGTH": 0}, "need a fixed SERIES.LENGTH"),
        ({"DATA__MODALITIES": ["video", "smell"]}, "one or more of video, series, video_features, each once"),
        ({"DATA__MODALITIES": []}, "DATA.MODALITIES []: one or more of"),
        ({"SERIES__FIT": "crop", "SERIES__LENGTH": 0}, "SERIES.FIT crop: needs a SERIES.LENGTH"),
        ({**FUSION, "DATA__MODALITIES": ["series"]}, "the model takes ['series', 'video_features']"),
        ({**FUSION, "FUSION__FEATURES_FROM": ""}, "name the stage that extracted the video features"),
        ({**END, "FUSION__FEATURES_FROM": "stage3"}, "stored features are not used with FUSION.END_TO_END True"),
        (
            {**FUSION, "FUSION__MODE": "cross_attention", "FUSION__NUM_HEADS": 3},
            "must be a multiple of FUSION.NUM_HEADS 3",
        ),
        ({**EXTRACT, "FEATURES__SPLITS": ["train", "all"]}, "one or more of train, val, test, each once"),
        ({**EXTRACT, "FEATURES__NUM_CROPS": 2}, "choose 1 (centre) or 3"),
        ({**EXTRACT, "FEATURES__FORMAT": "per_video", "FEATURES__NUM_VIEWS": 2}, "stores every window by itself"),
        ({**EXTRACT, "FEATURES__STRIDE": 4}, "windows are for FEATURES.FORMAT per_video"),
        ({**EXTRACT, "FEATURES__LAYER": " "}, "pooled, map or a submodule's name"),
    ],
)
def test_what_is_refused(settings, says):
    (text,) = texts(**settings)
    assert says in text
