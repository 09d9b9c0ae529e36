"""SilentCipher folders as the `silentcipher` package writes them: its classes, published width, random weights."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from silentcipher.model import CarrierDecoder, Encoder, MsgDecoder

from demo.silentcipher.networks import PUBLISHED


@dataclass(frozen=True)
class PublishedFolder:
    folder: Path
    encoder: Encoder
    decoder: CarrierDecoder
    message_decoder: MsgDecoder


def make_published_folder(folder: Path) -> PublishedFolder:
    """Write `folder`, with statistics for which batch normalisation has an effect."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hparams.yaml").write_text(yaml.safe_dump(PUBLISHED))
    torch.manual_seed(1)
    encoder = Encoder(n_layers=3, message_dim=5, out_dim=32, message_band_size=1024, n_fft=4096).eval()
    decoder = CarrierDecoder(SimpleNamespace(**PUBLISHED), conv_dim=96, n_layers=4, message_band_size=1024).eval()
    message_decoder = MsgDecoder(message_dim=5, message_band_size=1024).eval()
    networks = {"enc_c": encoder, "dec_c": decoder, "dec_m_0": message_decoder}
    for name, network in networks.items():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 2)
                module.bias.data.normal_(0, 0.1)
        prefix = "module." if name == "enc_c" else ""  # as torch.nn.DataParallel saves it
        torch.save({prefix + key: value for key, value in network.state_dict().items()}, folder / f"{name}.ckpt")
    return PublishedFolder(folder, encoder, decoder, message_decoder)
