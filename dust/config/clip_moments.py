"""The keys of ClipMoments."""

from dust.config.schema import Key, System, section

KEYS = section(
    "CLIP_MOMENTS",
    WIDTH=Key(16, "channels of the first convolution; the last has four times as many", low=1),
    GRID=Key(4, "places per side whose features the classifier sees", low=1),
    DROP_RATE=Key(0.5, "dropout before the head", low=0, below=1),
)

#: Its keys, the models that read them, and a check of how values go together: nothing here.
SYSTEM = System(KEYS, ("ClipMoments",), lambda cfg: [])
