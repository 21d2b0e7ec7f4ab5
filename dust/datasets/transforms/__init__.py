"""What is made of decoded frames: which ones, crops, RandAugment, mixing, and what runs on the device."""
