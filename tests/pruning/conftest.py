from tests.made_speech import make_maker, make_teacher, speech, teacher_folder  # noqa: F401  # fixtures
