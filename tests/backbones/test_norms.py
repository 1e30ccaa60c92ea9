import torch
from timm.layers import BatchNormAct2d
from torch import nn

from afictl.backbones.norms import freeze_batch_norm


def trained_norm(eps=1e-5):
    norm = nn.BatchNorm2d(3, eps=eps)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.copy_(torch.randn(3))
        norm.running_var.copy_(torch.rand(3) + 0.01)
    return norm.eval()


def test_frozen_norm_equals_batch_norm_in_eval_mode_with_and_without_gradients():
    norm = trained_norm(eps=1e-3)
    frozen, x = freeze_batch_norm(norm), torch.randn(2, 3, 4, 5, requires_grad=True)
    torch.testing.assert_close(frozen.train()(x), norm(x))
    torch.testing.assert_close(frozen(x.detach()), norm(x))
    torch.testing.assert_close(
        torch.autograd.grad(frozen(x).square().sum(), x), torch.autograd.grad(norm(x).square().sum(), x)
    )


def test_frozen_norm_returns_the_dtype_of_its_input():
    frozen, x = freeze_batch_norm(trained_norm()), torch.randn(2, 3, 4, 5, dtype=torch.bfloat16)
    assert frozen(x).dtype == frozen(x.requires_grad_()).dtype == torch.bfloat16


def test_frozen_norm_keeps_the_activation_of_timms_norm():
    norm = BatchNormAct2d(3, act_layer=nn.SiLU).eval()
    norm.running_mean.normal_()
    x = torch.randn(2, 3, 4, 5)
    frozen = freeze_batch_norm(norm)
    torch.testing.assert_close(frozen.train()(x), norm(x))
    assert frozen.state_dict().keys() == norm.state_dict().keys() - {"num_batches_tracked"}


def test_norm_of_sequences_is_frozen():
    norm = nn.BatchNorm1d(3).eval()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 7, requires_grad=True)
    torch.testing.assert_close(freeze_batch_norm(norm).train()(x), norm(x))


def test_nested_norms_are_replaced_and_not_trainable():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ModuleDict({"inner": nn.Sequential(trained_norm())}))
    assert freeze_batch_norm(net) is net
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
